"""Models of transformers for questions: their own places, masked as ours are, and encoders with a head of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tutelage.compress.steps import rebuilt
from tutelage.compress.thinning import Thin, thin
from tutelage.errors import InputError, ModelError
from tutelage.models import Classifier, ModelSpec, build, learning_count
from tutelage.models.huggingface_text import AnswerNet, PlacesNet, Vocabulary
from tutelage.models.textnets import answerable
from tutelage.tasks import IMPOSSIBLE

pytest.importorskip("transformers")

LENGTH, WORDS, END = 10, 12, 3
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SMALL: dict[str, dict[str, Any]] = {
    "bert": TINY,
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "roberta": TINY,
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
}
# The question and its text, a text that was cut, a question alone, nothing.
X = torch.tensor([
    [2, 5, 6, 3, 7, 8, 9, 3, 0, 0], [2, 5, 3, 7, 8, 9, 9, 4, 5, 6], [2, 5, 6, 3, 0, 0, 0, 0, 0, 0], [0] * LENGTH,
])  # fmt: skip
OK = answerable(X, END).repeat(1, 2)


def make(name: str, separator: int = END, **args: Any) -> Classifier:
    torch.manual_seed(0)
    return build(
        ModelSpec(name, args), input_shape=(LENGTH,), classes=2 * LENGTH, mean=[0.0], std=[1.0], vocabulary=WORDS,
        separator=separator,
    )  # fmt: skip


def saved(place: Path, model: str, separator: str | None, **config: Any) -> Path:
    """A folder of weights and, where `separator` names a token, a tokenizer of twelve tokens, [PAD] 0 … [SEP] 3."""
    import transformers
    from tokenizers import Tokenizer, models

    torch.manual_seed(1)
    kind: Any = getattr(transformers, model)
    made = kind(kind.config_class(vocab_size=WORDS, initializer_range=0.3, **TINY, **config))
    made.save_pretrained(place)
    if separator is not None:
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]
        tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "[UNK]"))
        tokenizer.add_special_tokens(["[PAD]", separator])
        (place / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
        told = {"pad_token": "[PAD]", "sep_token": separator}
        (place / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("qa"), "BertForQuestionAnswering", "[SEP]", max_position_embeddings=16)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("encoder"), "BertModel", "[SEP]", max_position_embeddings=16)


def told_by(reference: Any, x: Tensor, **said: Tensor) -> Tensor:
    with torch.no_grad():
        found = reference.eval()(input_ids=x, attention_mask=(X != 0).long(), **said)
    return torch.cat([found.start_logits, found.end_logits], 1)


# ---- fresh weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SMALL)
def test_a_type_answers_only_where_an_answer_can_be(kind: str) -> None:
    model = make(f"hf:{kind}", **SMALL[kind]).eval()
    with torch.no_grad():
        told = model(X)
        assert told.shape == (4, 2 * LENGTH)
        assert bool(told.isfinite().all())
        assert torch.equal(told == IMPOSSIBLE, ~OK)
        shorter = model(X[[0, 2], :8]).unflatten(1, (2, -1))
        torch.testing.assert_close(shorter, told[[0, 2]].unflatten(1, (2, -1))[..., :8], rtol=1e-5, atol=1e-6)
    model(X)[OK].square().sum().backward()
    net: Any = model.net
    still = [name for name, one in net.model.named_parameters() if one.grad is None and "wte" not in name]
    assert still == []


def test_a_fresh_model_tells_the_texts_of_a_pair_apart_by_the_token_of_the_data() -> None:
    """As with a tokenizer from elsewhere, whose separator is not the one that is learned here."""
    x = torch.where(X == END, 11, X)
    model = make("hf:bert", separator=11, initializer_range=0.3, **TINY).eval()
    net: Any = model.net
    types = ((x == 11).long().cumsum(1) - (x == 11).long()).clamp(max=1) * (x != 0)
    expected = told_by(net.model, x, token_type_ids=types)
    plain = told_by(net.model, x)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[:3][OK[:3]], expected[:3][OK[:3]], rtol=1e-5, atol=1e-6)
    assert float((expected - plain)[:2].abs().max()) > 1e-3


def test_what_answers_no_questions_is_refused_with_its_like() -> None:
    with pytest.raises(InputError, match="`resnet` is no model of transformers for questions about texts"):
        make("hf:resnet")
    with pytest.raises(InputError, match="did you mean `bert`"):
        make("hf:bertt")


def test_every_second_block_of_bert_is_a_student() -> None:
    model = make("hf:bert", **TINY).eval()
    step = thin(model, Thin(every=2))
    again = rebuilt(make("hf:bert", **TINY).eval(), [step])
    again.load_state_dict(model.state_dict())
    assert step["keep"] == [0]
    assert torch.equal(again(X), model(X))


# ---- weights of a folder ---------------------------------------------------------------------------------------------


def test_a_folder_for_questions_answers_as_it_does_without_us(answerer: Path) -> None:
    from transformers import AutoModelForQuestionAnswering

    model = make(f"hf:{answerer}").eval()
    assert isinstance(model.net, AnswerNet)
    assert model.notices == []
    types = torch.tensor([[0] * 4 + [1] * 4 + [0] * 2, [0] * 3 + [1] * 7, [0] * LENGTH, [0] * LENGTH])
    expected = told_by(AutoModelForQuestionAnswering.from_pretrained(answerer), X, token_type_ids=types)
    with torch.no_grad():
        torch.testing.assert_close(model(X)[:3][OK[:3]], expected[:3][OK[:3]], rtol=1e-5, atol=1e-6)


def test_a_model_that_pads_with_another_token_hears_its_own(tmp_path: Path) -> None:
    """RoBERTa's padding is 1 and its first token 0; in the data these two have changed places."""
    from transformers import AutoModelForQuestionAnswering

    saved(tmp_path, "RobertaForQuestionAnswering", None, max_position_embeddings=LENGTH + 2, pad_token_id=1)
    model = make(f"hf:{tmp_path}").eval()
    x = X.clone()
    x[:3, 0] = 1
    own = torch.where(x == 0, 1, torch.where(x == 1, 0, x))
    reference = AutoModelForQuestionAnswering.from_pretrained(tmp_path).eval()
    types = ((X == END).long().cumsum(1) - (X == END).long()).clamp(max=1) * (X != 0)
    with torch.no_grad():
        told = model(x)
        assert torch.equal(told == IMPOSSIBLE, ~OK)
        for row, count in enumerate([8, 10, 4]):
            found = reference(input_ids=own[row : row + 1, :count], token_type_ids=types[row : row + 1, :count])
            expected = torch.stack([found.start_logits, found.end_logits], 1)[0]
            ok = OK[row, :count]
            torch.testing.assert_close(
                told[row].unflatten(0, (2, -1))[:, :count][:, ok], expected[:, ok], rtol=1e-4, atol=1e-5
            )


def test_an_encoder_gets_a_head_when_asked(encoder: Path) -> None:
    with pytest.raises(ModelError, match="not complete: 2 tensors missing") as caught:
        make(f"hf:{encoder}")
    assert "add new_head: true" in str(caught.value)
    model = make(f"hf:{encoder}", new_head=True, freeze=True)
    net = model.net
    assert isinstance(net, PlacesNet)
    assert learning_count(model) == 2 * 16 + 2
    assert "head.ends.weight, head.ends.bias" in model.notices[0]
    with torch.no_grad():
        states = net.read(X, (X != 0) | (torch.arange(LENGTH) == 0)).last_hidden_state
        expected = net.head.ends(states)
        torch.testing.assert_close(model(X)[OK], torch.cat([expected[..., 0], expected[..., 1]], 1)[OK])
        assert torch.equal(model(X) == IMPOSSIBLE, ~OK)


def test_a_classifier_of_texts_lends_its_body(tmp_path: Path) -> None:
    saved(tmp_path, "BertForSequenceClassification", "[SEP]", max_position_embeddings=16, num_labels=3)
    assert isinstance(make(f"hf:{tmp_path}", new_head=True).net, PlacesNet)


def test_texts_that_end_otherwise_than_the_model_knows_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, "BertForQuestionAnswering", "h", max_position_embeddings=16)
    with pytest.raises(ModelError, match="texts of the data do not end as") as caught:
        make(f"hf:{tmp_path}")
    assert "the token 3" in str(caught.value)
    assert "the token 11" in str(caught.value)
    assert make(f"hf:{tmp_path}", separator=11).vocabulary == WORDS


@pytest.mark.parametrize(
    ("padding", "known", "told", "own"), [(0, None, 3, 3), (0, 3, 3, 3), (1, 2, 2, 2), (1, 0, 1, 0), (5, None, 5, 0)]
)
def test_what_ends_a_text_has_changed_places_with_padding(padding: int, known: int | None, told: int, own: int) -> None:
    assert Vocabulary(padding, known).of_questions("x", told).separator == own
    with pytest.raises(ModelError, match=f"given     the token {own}"):
        Vocabulary(padding, own + 1).of_questions("x", told)
