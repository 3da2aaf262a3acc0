"""Text classifiers of Hugging Face transformers, those that answer questions with places, and encoders with a head of
our own for either.

Tokens come in with 0 as padding. A tokenizer that pads with another id had the two change places (see
`tutelage.data.encoders.text`), and here they change back, before the model sees them.

Shapes:  B batch · L tokens · D features
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from tutelage.data.encoders.tokenizing import SEPARATOR, opened, padding_of, padding_told, read_tokenizer
from tutelage.errors import ModelError
from tutelage.models.huggingface_package import Family, Wrapped
from tutelage.models.textnets import Mean, Places, attended, masked

__all__ = [
    "AnswerNet",
    "PlacesNet",
    "SentenceNet",
    "TextNet",
    "Vocabulary",
    "answering",
    "check_tokens",
    "has_head",
    "net_of",
    "text_settings",
]


@final
@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Which ids of a model's own vocabulary mean padding and the end of a text; None where no such end is known."""

    padding: int = 0
    separator: int | None = SEPARATOR
    size: int | None = None  # where a tokenizer lies beside the weights

    @classmethod
    def of_folder(cls, place: Path | None, config: Any) -> Self:
        """As the tokenizer beside the weights has it, else as their config has."""
        if place is None or not (place / "tokenizer.json").is_file():
            return cls(int(getattr(config, "pad_token_id", None) or 0), None)
        _, ids, told = opened(read_tokenizer(place), 1, 8)
        separator = ids.get(padding_told(place, "sep_token") or "[SEP]")
        return cls(padding_of(ids, padding_told(place), told), separator, max(ids.values()) + 1)

    def of_questions(self, source: str, separator: int) -> Self:
        """The same, whose texts end with that token of the data.

        Raises:
            ModelError: the model was trained on another one.
        """
        own = 0 if separator == self.padding else separator  # which had changed places with padding
        if self.separator not in (None, own):
            raise ModelError(
                f"texts of the data do not end as hf:{source} knows it", given=f"the token {own}",
                expected=f"the token {self.separator}",
                fix=f"encode the text with the model's own: tokens: {{source: {source}}}",
            )  # fmt: skip
        return replace(self, separator=own)


class _Reader(Wrapped):
    """Tokens as a transformers model wants them: ids of its own, a mask, and which text of a pair they are of."""

    def __init__(self, model: nn.Module, vocabulary: Vocabulary) -> None:
        super().__init__(model)
        self.padding = vocabulary.padding
        takes = "token_type_ids" in inspect.signature(model.forward).parameters
        pairs = takes and (getattr(model.config, "type_vocab_size", None) or 0) > 1
        self.separator = vocabulary.separator if pairs else None

    def read(self, x: Tensor, mask: Tensor) -> Any:
        """Tokens (B, L) and which of them count to the model's output."""
        ids = torch.where(x == 0, self.padding, torch.where(x == self.padding, 0, x)) if self.padding else x
        told: dict[str, Tensor] = {}
        if self.separator is not None:
            ends = (ids == self.separator).to(torch.int64)
            # 0 up to the first end and on it, 1 from there on, as two texts were seen in pretraining.
            told["token_type_ids"] = (ends.cumsum(1) - ends).clamp(max=1) * mask
        return self.model(input_ids=ids, attention_mask=mask.to(torch.int64), **told)


@final
class TextNet(_Reader):
    """The logits of a transformers text classifier."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, L) -> (B, classes)."""
        logits: Tensor = self.read(x, attended(x)).logits
        return logits


@final
class AnswerNet(_Reader):
    """The places where a model of transformers for questions says that an answer begins and ends."""

    def __init__(self, model: nn.Module, vocabulary: Vocabulary, separator: int) -> None:
        super().__init__(model, vocabulary)
        self.ends = separator

    def forward(self, x: Tensor) -> Tensor:
        """(B, L) -> (B, 2L)."""
        found = self.read(x, attended(x))
        return masked(torch.stack([found.start_logits, found.end_logits], 1), x, self.ends)


class _Encoder(_Reader):
    """A model without a head, whose last states one of our own reads."""

    def __init__(self, model: nn.Module, vocabulary: Vocabulary) -> None:
        super().__init__(model, vocabulary)
        if isinstance(getattr(model, "pooler", None), nn.Module):
            model.pooler = None  # type: ignore[assignment]  # nobody would listen to it, and it would not learn

    @property
    def body(self) -> nn.Module:
        """The encoder."""
        return self.model


@final
class PlacesNet(_Encoder):
    """An encoder and a linear layer on every one of its last states, which says where an answer begins and ends."""

    def __init__(self, model: nn.Module, vocabulary: Vocabulary, width: int, separator: int) -> None:
        super().__init__(model, vocabulary)
        self.head = Places(width, separator)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L) -> (B, 2L)."""
        logits: Tensor = self.head(self.read(x, attended(x)).last_hidden_state, x)
        return logits


@final
class SentenceNet(_Encoder):
    """A sentence encoder: the mean of its last states over all tokens but padding, then a linear layer.

    What `pool` puts out is the sentence's embedding (B, D), as it is before anybody makes it of length 1 (Reimers,
    Gurevych 2019, "Sentence-BERT", EMNLP, arXiv 1908.10084).
    """

    def __init__(self, model: nn.Module, vocabulary: Vocabulary, width: int, classes: int) -> None:
        super().__init__(model, vocabulary)
        self.pool = Mean()
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L) -> (B, classes)."""
        mask = attended(x)
        logits: Tensor = self.head(self.pool(self.read(x, mask).last_hidden_state, mask))
        return logits


def answering(package: Family, separator: int) -> Family:
    """Of a family of text classifiers the models that answer questions with places, where there is a separator."""
    if not separator:
        return package
    import transformers
    from transformers.models.auto import modeling_auto as names

    kinds = names.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES
    return replace(package, model=transformers.AutoModelForQuestionAnswering, kinds=kinds)


def has_head(config: Any, separator: int) -> bool:
    """Whether the weights of a folder have a head for whole texts, or with `separator` one for places."""
    wanted = "ForQuestionAnswering" if separator else "ForSequenceClassification"
    names = map(str, getattr(config, "architectures", None) or ())
    return any(name.removesuffix("Simple").endswith(wanted) for name in names)


def net_of(model: Any, told: Vocabulary, *, classes: int, separator: int = 0, encoder: bool = False) -> Wrapped:
    """A model of transformers as a net from tokens to logits.

    Args:
        model: with its head, or without one.
        told: its own vocabulary.
        classes: number of classes.
        separator: as it stands in the data, where the net answers with places; else 0.
        encoder: whether the model has no head, and gets one.
    """
    if separator:
        return (
            PlacesNet(model, told, model.config.hidden_size, separator) if encoder
            else AnswerNet(model, told, separator)
        )  # fmt: skip
    return SentenceNet(model, told, model.config.hidden_size, classes) if encoder else TextNet(model, told)


def text_settings(fields: Mapping[str, object], length: int, vocabulary: int) -> dict[str, object]:
    """What of a config follows from the data: sizes, and padding, which is 0 in all that is learned here."""
    sizes: dict[str, object] = {"vocab_size": vocabulary, "pad_token_id": 0}
    if "max_position_embeddings" in fields:
        sizes["max_position_embeddings"] = length + 2  # as RoBERTa and its like count on from behind their padding
    elif "n_positions" in fields:
        sizes["n_positions"] = length
    return sizes


def check_tokens(source: str, model: nn.Module, told: Vocabulary, *, length: int, vocabulary: int) -> None:
    """Whether a model with weights fits the tokens of the data.

    Raises:
        ModelError: it was trained on other tokens, or on shorter texts.
    """
    config: Any = model.config
    known = told.size or config.vocab_size
    if vocabulary != known if told.size else vocabulary > known:
        raise ModelError(
            f"the tokens of the data are not those of hf:{source}", given=f"a vocabulary of {vocabulary}",
            expected=str(known), fix=f"encode the text with the model's own: tokens: {{source: {source}}}",
        )  # fmt: skip
    places = getattr(config, "max_position_embeddings", None) or length
    tables = [layer for name, layer in model.named_modules() if name.endswith("position_embeddings")]
    if any(isinstance(layer, nn.Embedding) and layer.padding_idx is not None for layer in tables):
        places -= told.padding + 1  # RoBERTa and its like count on from behind their padding
    if places < length:
        raise ModelError(
            f"hf:{source} reads {places} tokens, the data has {length}", fix=f"tokens: {{length: {places}}}"
        )
