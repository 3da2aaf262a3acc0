"""Where a remote teacher lives, and what may be sent there: secrets never in an address, plain HTTP only at home."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import final
from urllib.parse import urlsplit

from tutelage.errors import InputError

__all__ = ["Address", "key_from"]

# Prefixes of what people call such variables; a key itself never looks like this.
_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
_PORTS = {"http": 80, "https": 443}


@final
@dataclass(frozen=True, slots=True)
class Address:
    """A server and the path below which it answers.

    Args:
        scheme: http or https.
        host: a name or an IP address, without brackets.
        port: 1 … 65535.
        path: without a slash at its end.
    """

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, text: str, *, insecure: bool = False) -> Address:
        """Read an address.

        Args:
            text: `https://…`, or `http://…` of this machine.
            insecure: allow plain HTTP to other machines as well.

        Raises:
            InputError: it is none, holds a password or a query, or would send texts and key in the clear.
        """
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise InputError("this is no address of a teacher", expected="https://host:port/path") from None
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            # Not shown: what stands there may be a secret.
            raise InputError(
                "a teacher's address holds a user, a password, or something behind `?` or `#`",
                expected="https://host:port/path", fix="name the variable that holds the key: `key_env`",
            )  # fmt: skip
        odd = any(not "!" <= letter <= "~" for letter in text)
        if parts.scheme not in _PORTS or not parts.hostname or odd or port == 0:
            raise InputError(
                "this is no address of a teacher", given=ascii(text[:200]), expected="https://host:port/path"
            )
        found = cls(parts.scheme, parts.hostname, port or _PORTS[parts.scheme], parts.path.rstrip("/"))
        if found.scheme == "http" and not found.is_local and not insecure:
            raise InputError(
                "plain HTTP to another machine: anybody on the way reads the texts, the answers and the key",
                given=found.shown, expected="https://…", fix="use https, or say `insecure: true`",
            )  # fmt: skip
        return found

    @property
    def is_local(self) -> bool:
        """Whether only this machine is meant."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def authority(self) -> str:
        """Host and port as they stand in an address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """For messages."""
        return f"{self.scheme}://{self.authority}{self.path}"


def key_from(variable: str | None) -> str | None:
    """The key in a variable of the environment; it is held in memory only.

    Raises:
        InputError: what should be the variable's name looks like something else, the variable is not there, or its
            value cannot stand in a header. No message repeats a key.
    """
    if variable is None:
        return None
    if not _VARIABLE.fullmatch(variable):
        raise InputError(
            "`key_env` names a variable of the environment; it does not hold the key",
            expected="a name in capitals with an underscore, such as TEACHER_KEY",
            fix="if this was a key, take it out of the recipe, and put it into such a variable",
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(
            f"the variable {variable} is not set, and `key_env` says that it holds the teacher's key",
            fix=f"export {variable}=… in the shell that starts this",
        )
    if any(not "!" <= letter <= "~" for letter in key):
        raise InputError(
            f"what {variable} holds cannot be a key", expected="printable characters of ASCII, without spaces"
        )
    return key
