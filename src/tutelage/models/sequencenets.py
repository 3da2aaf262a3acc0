"""Nets that read one thing after the other: time steps, the rows or patches of a picture, tokens of a text.

Of tokens they may also say at which an answer begins and ends, see `tutelage.models.textnets`.

Shape legend:  B batch · C channels · H, W height and width · T steps or tokens · D features
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import ModelError
from tutelage.models.sizes import check_dropout, check_sizes
from tutelage.models.textnets import Embedding, Mean, Places, attended, is_text, last_state, turned

__all__ = ["Gru", "Transformer"]


@final
class Gru(nn.Module):
    """`depth` recurrent layers of `width` over time steps or tokens; of a picture, its rows from top to bottom.

    With `separator` it answers with places: as many layers read the text from its end as well, since a state that has
    only heard what came before cannot know that an answer begins.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        *,
        vocabulary: int = 0,
        separator: int = 0,
        width: int = 64,
        depth: int = 1,
        rank: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(width=width, depth=depth)
        check_dropout(dropout)
        self.text = is_text("gru", input_shape, vocabulary, rank)
        self.picture = not self.text and _is_picture("gru", input_shape)
        if self.text:
            features = width
            self.embed = Embedding(vocabulary, width, rank)
        else:
            features = input_shape[0] * input_shape[2] if self.picture else input_shape[1]
        # Between layers only: torch warns about dropout after a single one.
        between = dropout if depth > 1 else 0.0
        self.recurrent = nn.GRU(features, width, num_layers=depth, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.head: nn.Linear | Places
        if separator:
            self.returning = nn.GRU(features, width, num_layers=depth, batch_first=True, dropout=between)
            self.head = Places(2 * width, separator)
        else:
            self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        steps = x
        if self.picture:
            steps = x.transpose(1, 2).flatten(2)  # (B, C, H, W) -> (B, H, C·W)
        elif self.text:
            steps = self.embed(x)
        states, _ = self.recurrent(steps)
        logits: Tensor
        if isinstance(self.head, Places):
            # Turned text by text: read from the end of its row, a text would hear the padding first.
            back, _ = self.returning(turned(steps, x))
            logits = self.head(self.dropout(torch.cat([states, turned(back, x)], 2)), x)
            return logits
        logits = self.head(self.dropout(last_state(states, x) if self.text else states[:, -1]))
        return logits


@final
class _Block(nn.Module):
    """Self-attention and two linear layers, each after a layer norm and added to what came in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        mixed = self.query_key_value(self.norm_attention(x)).unflatten(2, (3, self.heads, -1))  # (B, T, 3, heads, D)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        seen = None if mask is None else mask[:, None, None]
        heard = F.scaled_dot_product_attention(query, key, value, attn_mask=seen).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.joined(heard))
        added: Tensor = x + self.dropout(self.mlp(self.norm_mlp(x)))
        return added


@final
class _Blocks(nn.Sequential):
    """Blocks in a row, all of which look only where the mask (B, T) says."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self:
            x = block(x, mask)
        return x


@final
class Transformer(nn.Module):
    """`depth` self-attention blocks over steps or tokens with learned positions; of a picture, patches of `patch`²
    pixels. With `separator` it answers with places."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        *,
        vocabulary: int = 0,
        separator: int = 0,
        width: int = 48,
        depth: int = 3,
        heads: int = 4,
        patch: int = 4,
        rank: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(width=width, depth=depth, heads=heads, patch=patch)
        check_dropout(dropout)
        if width % heads:
            raise ModelError(
                "the heads of a transformer share its width evenly",
                given=f"width={width}, heads={heads}",
                expected=f"a width that {heads} divides",
                fix=f"width={-(-width // heads) * heads}",
            )
        self.text = is_text("transformer", input_shape, vocabulary, rank)
        self.picture = not self.text and _is_picture("transformer", input_shape)
        self.embed: nn.Conv2d | nn.Linear | Embedding
        if self.picture:
            tokens = _patches(input_shape, patch)
            self.embed = nn.Conv2d(input_shape[0], width, patch, stride=patch)
        else:
            tokens = input_shape[0]
            self.embed = Embedding(vocabulary, width, rank) if self.text else nn.Linear(input_shape[1], width)
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = _Blocks(*(_Block(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head: nn.Linear | Places
        if separator:
            self.head = Places(width, separator)
        else:
            self.pool = Mean()
            self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        if self.picture:
            tokens = tokens.flatten(2).transpose(1, 2)  # (B, D, H', W') -> (B, T, D)
        # A text may be shorter than the longest one: what stands behind it is left out in any case.
        positions = self.positions[: x.shape[1]] if self.text else self.positions
        mask = attended(x) if self.text else None
        states = self.norm(self.blocks(tokens + positions, mask))
        logits: Tensor = self.head(states, x) if isinstance(self.head, Places) else self.head(self.pool(states, mask))
        return logits


def _is_picture(net: str, input_shape: tuple[int, ...]) -> bool:
    if len(input_shape) not in (2, 3):
        raise ModelError(
            f"`{net}` reads sequences or images",
            given=f"examples of shape {input_shape}",
            expected="(time steps, features) or (channels, height, width)",
            fix="mlp reads any shape",
        )
    return len(input_shape) == 3


def _patches(input_shape: tuple[int, ...], patch: int) -> int:
    _, height, width = input_shape
    if height % patch or width % patch:
        sizes = [size for size in range(2, min(height, width) + 1) if height % size == 0 and width % size == 0]
        raise ModelError(
            f"patches of {patch} pixels do not tile images of {height}×{width}",
            given=f"patch={patch}",
            expected="a patch size that divides height and width",
            fix=f"patch={min(sizes, key=lambda size: abs(size - patch), default=1)}",
        )
    return (height // patch) * (width // patch)
