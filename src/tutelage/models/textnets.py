"""What nets do with tokens: look them up, leave padding out, say where an answer begins and ends, and the simplest net
that does no more than the first two.

Tokens are whole numbers (B, L); 0 is padding and stands behind. It is left out everywhere: more of it behind a text
never changes an answer, and a text of nothing else has an answer as well.

A question and the text that answers it are one row, `[CLS] question [SEP] text [SEP]`. Its answer is two places: L
logits of where it begins, then L of where it ends. Place 0 means that the text does not answer.

Shape legend:  B batch · L tokens · D features · V vocabulary
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from tutelage.errors import InputError, ModelError
from tutelage.models.sizes import check_dropout, check_sizes
from tutelage.tasks import IMPOSSIBLE

__all__ = [
    "Bag",
    "Embedding",
    "Mean",
    "Places",
    "answerable",
    "attended",
    "check_places",
    "is_text",
    "last_state",
    "masked",
    "turned",
]

_SPREAD = 0.02


@final
class Embedding(nn.Module):
    """Tokens (B, L) to vectors (B, L, D); with `rank` by way of that many numbers a token.

    A vocabulary is most of a small student: V·D numbers, or V·rank + rank·D of a factored one (Lan, Chen, Goodman,
    Gimpel, Sharma, Soricut 2020, "ALBERT", ICLR, arXiv 1909.11942).
    """

    def __init__(self, vocabulary: int, width: int, rank: int = 0) -> None:
        super().__init__()
        check_sizes(0, rank=rank)
        self.table = nn.Embedding(vocabulary, rank or width, padding_idx=0)
        # Small, as BERT begins: torch's unit normal drowns the positions, and attention is slow to learn from it. The
        # second factor's own first weights divide by the root of 3.
        nn.init.normal_(self.table.weight, std=_SPREAD * (3**0.5 if rank else 1.0))
        with torch.no_grad():
            self.table.weight[0] = 0.0
        self.up = nn.Linear(rank, width, bias=False) if rank else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        vectors: Tensor = self.up(self.table(tokens))
        return vectors


@final
class Mean(nn.Module):
    """(B, L, D) to (B, D): the mean over places, or over those that a mask (B, L) leaves."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            return x.mean(1)
        kept = mask.unsqueeze(2).to(x.dtype)
        return (x * kept).sum(1) / kept.sum(1).clamp(min=1.0)


@final
class Bag(nn.Module):
    """The mean of the tokens' vectors, then `depth` hidden layers of `width`; with `depth` 0 it is a linear model."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        *,
        vocabulary: int = 0,
        width: int = 64,
        depth: int = 1,
        rank: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not is_text("bag", input_shape, vocabulary):
            raise ModelError(
                "`bag` reads tokens", given=f"examples of shape {input_shape} that are none",
                expected="whole numbers below a vocabulary", fix="mlp reads anything else",
            )  # fmt: skip
        check_sizes(width=width)
        check_sizes(0, depth=depth)
        check_dropout(dropout)
        self.embed = Embedding(vocabulary, width, rank)
        self.pool = Mean()
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        for _ in range(depth):
            layers += [nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout)]
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(self.pool(self.embed(x), x != 0)))
        return logits


@final
class Places(nn.Module):
    """States (B, L, D) and their tokens to logits (B, 2L): where an answer begins, then where it ends."""

    def __init__(self, width: int, separator: int) -> None:
        super().__init__()
        self.separator = separator
        self.ends = nn.Linear(width, 2)

    def forward(self, states: Tensor, tokens: Tensor) -> Tensor:
        return masked(self.ends(states).transpose(1, 2), tokens, self.separator)


def answerable(tokens: Tensor, separator: int) -> Tensor:
    """(B, L) -> (B, L) bool, the places an answer may begin and end at: 0, which means that there is none, and every
    token behind the first separator that is neither a separator nor padding."""
    ends = tokens == separator
    behind = ends.to(torch.int64).cumsum(1) > 0
    first = torch.arange(tokens.shape[1], device=tokens.device) == 0
    return first | (behind & ~ends & (tokens != 0))


def masked(logits: Tensor, tokens: Tensor, separator: int) -> Tensor:
    """(B, 2, L), (B, L) -> (B, 2L): `IMPOSSIBLE` wherever no answer can be; no gradient flows from there."""
    return logits.masked_fill(~answerable(tokens, separator).unsqueeze(1), IMPOSSIBLE).flatten(1)


def check_places(input_shape: tuple[int, ...], classes: int, vocabulary: int, separator: int) -> None:
    """Whether a model can answer with places here: of tokens, and with a beginning and an end for each of them.

    Raises:
        InputError: the separator is no token, or there are not two classes for each place.
    """
    if len(input_shape) != 1 or not 0 < separator < vocabulary:
        raise InputError(
            "places of answers are places of tokens",
            given=f"examples of shape {input_shape}, {vocabulary} tokens, separator {separator}",
            expected="rows of tokens, one of which ends a text",
        )
    if classes != 2 * input_shape[0]:
        raise InputError(
            "an answer is a beginning and an end, each one of as many classes as there are places",
            given=f"{classes} classes, {input_shape[0]} places", expected=f"{2 * input_shape[0]} classes",
            fix="one model answers both tasks",
        )  # fmt: skip


def is_text(net: str, input_shape: tuple[int, ...], vocabulary: int, rank: int = 0) -> bool:
    """Whether a net reads tokens here, once shape and sizes are seen to fit.

    Raises:
        ModelError: rows of tokens have one dimension.
        InputError: a setting of tokens where there are none.
    """
    if vocabulary and (len(input_shape) != 1 or vocabulary < 2):
        raise ModelError(
            f"`{net}` reads rows of tokens", given=f"examples of shape {input_shape}, {vocabulary} tokens",
            expected="(tokens,), and a vocabulary of two or more",
        )  # fmt: skip
    if rank and not vocabulary:
        raise InputError("`rank` is of the table of tokens", given=f"rank={rank}", expected="inputs that are tokens")
    return vocabulary > 0


def last_state(states: Tensor, tokens: Tensor) -> Tensor:
    """(B, L, D), (B, L) -> (B, D): what stands at the last token that is no padding; of padding alone at the first."""
    _, last = _places(tokens)
    return states.gather(1, last.unsqueeze(2).expand(-1, 1, states.shape[2])).squeeze(1)


def turned(states: Tensor, tokens: Tensor) -> Tensor:
    """(B, L, D), (B, L) -> (B, L, D): each text from its last token to its first; padding stays behind it."""
    places, last = _places(tokens)
    order = torch.where(places <= last, last - places, places)
    return states.gather(1, order.unsqueeze(2).expand(-1, -1, states.shape[2]))


def _places(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(B, L) -> (L,), (B, 1): all places, and that of the last token that is no padding."""
    places = torch.arange(tokens.shape[1], device=tokens.device)
    return places, ((tokens != 0) * places).amax(1, keepdim=True)


def attended(tokens: Tensor) -> Tensor:
    """(B, L) -> (B, L) bool, what attention may look at: all tokens, and of padding alone its first place, as a softmax
    over nothing is no number."""
    first = torch.arange(tokens.shape[1], device=tokens.device) == 0
    return (tokens != 0) | (first & (tokens == 0).all(1, keepdim=True))
