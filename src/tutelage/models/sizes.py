"""What arguments of nets can be, said before a net is made of them."""

from __future__ import annotations

from tutelage.errors import InputError

__all__ = ["check_dropout", "check_sizes"]


def check_sizes(least: int = 1, **sizes: int) -> None:
    """Raises: InputError: one of them is smaller than it can be."""
    for name, value in sizes.items():
        if value < least:
            raise InputError(f"`{name}` is too small", given=f"{name}={value}", expected=f"a whole number from {least}")


def check_dropout(dropout: float) -> None:
    """Raises: InputError: it is no share."""
    if not 0.0 <= dropout < 1.0:
        raise InputError("`dropout` is a share of units", given=f"dropout={dropout}", expected="a number in [0, 1)")
