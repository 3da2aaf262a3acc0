"""What nets do with tokens: look them up, leave padding out, and the simplest net that does no more.

Tokens are whole numbers (B, L); 0 is padding and stands behind. It is left out everywhere: more of it behind a text
never changes an answer, and a text of nothing else has an answer as well.

Shape legend:  B batch · L tokens · D features · V vocabulary
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from tutelage.errors import InputError, ModelError
from tutelage.models.sizes import check_dropout, check_sizes

__all__ = ["Bag", "Embedding", "Mean", "attended", "is_text", "last_state"]

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
    places = torch.arange(tokens.shape[1], device=tokens.device)
    last = ((tokens != 0) * places).amax(1)
    return states.gather(1, last.reshape(-1, 1, 1).expand(-1, 1, states.shape[2])).squeeze(1)


def attended(tokens: Tensor) -> Tensor:
    """(B, L) -> (B, L) bool, what attention may look at: all tokens, and of padding alone its first place, as a softmax
    over nothing is no number."""
    first = torch.arange(tokens.shape[1], device=tokens.device) == 0
    return (tokens != 0) | (first & (tokens == 0).all(1, keepdim=True))
