"""Text and sound classifiers of transformers: masked, pairs told apart, sentence encoders with a head of our own."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage.compress.steps import rebuilt
from tutelage.compress.thinning import Thin, thin
from tutelage.data.encoders.text import fit_tokens
from tutelage.data.rows import Rows
from tutelage.distiller import Distiller
from tutelage.errors import InputError, ModelError
from tutelage.models import Classifier, ModelSpec, build, learning_count
from tutelage.taps import Taps

pytest.importorskip("transformers")

LENGTH, WORDS = 10, 12
TINY = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
SMALL: dict[str, dict[str, Any]] = {
    "bert": TINY,
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "roberta": TINY,
    "mpnet": TINY,
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
}
SOUND = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(name: str, length: int = LENGTH, classes: int = 3, vocabulary: int = WORDS, **args: Any) -> Classifier:
    torch.manual_seed(0)
    return build(
        ModelSpec(name, args), input_shape=(length,), classes=classes, mean=[0.0], std=[1.0], vocabulary=vocabulary
    )


def texts() -> Tensor:
    x = torch.randint(4, WORDS, (5, LENGTH), generator=torch.Generator().manual_seed(0))
    return x * (torch.arange(LENGTH) < torch.tensor([10, 7, 4, 1, 0]).unsqueeze(1))


def tokenizer(place: Path, words: list[str], sides: tuple[str, str], ends: dict[str, int], padding: str) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([*ends, padding])
    made.post_processor = processors.TemplateProcessing(
        single=sides[0], pair=sides[1], special_tokens=list(ends.items())
    )
    place.mkdir(parents=True, exist_ok=True)
    (place / "tokenizer.json").write_text(made.to_str(), encoding="utf-8")
    (place / "tokenizer_config.json").write_text(json.dumps({"pad_token": padding}), encoding="utf-8")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of two kinds of texts without a head, whose padding is 0."""
    from transformers import BertConfig, BertModel

    place = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "<unk>", "[CLS]", "[SEP]", *"abcdefgh"]
    template = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"
    tokenizer(place, words, template, {"[CLS]": 2, "[SEP]": 3}, "[PAD]")
    torch.manual_seed(1)
    config = BertConfig(vocab_size=len(words), max_position_embeddings=16, initializer_range=0.3, **TINY)
    BertModel(config).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of three classes whose padding is 1, and whose positions count on from there."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    place = tmp_path_factory.mktemp("roberta")
    words = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefgh"]
    tokenizer(place, words, ("<s> $A </s>", "<s> $A </s> </s> $B </s>"), {"<s>": 0, "</s>": 2}, "<pad>")
    torch.manual_seed(1)
    config = RobertaConfig(
        vocab_size=len(words), max_position_embeddings=LENGTH + 2, pad_token_id=1, num_labels=3, type_vocab_size=1,
        initializer_range=0.3, **TINY,
    )  # fmt: skip
    RobertaForSequenceClassification(config).save_pretrained(place)
    return place


def encoded(place: Path, *sides: list[str], length: int = LENGTH) -> tuple[Tensor, Any]:
    names = ["a", "b"][: len(sides)]
    columns = {name: np.array([*side, ""], dtype=object)[:-1] for name, side in zip(names, sides, strict=True)}
    data = Rows("texts", columns)
    encoder = fit_tokens(data, names, source=place, length=length)
    return encoder.encode(data).long(), encoder


# ---- fresh weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SMALL)
def test_a_type_reads_tokens_and_nothing_behind_them(kind: str) -> None:
    model = make(f"hf:{kind}", **SMALL[kind]).eval()
    x = texts()
    with torch.no_grad():
        told = model(x)
        assert told.shape == (5, 3)
        assert bool(told.isfinite().all())
        torch.testing.assert_close(model(x[1:4, :7]), told[1:4], rtol=1e-5, atol=1e-6)


def test_sizes_follow_from_the_data() -> None:
    net: Any = make("hf:bert", **TINY).net
    config = net.model.config
    assert (config.vocab_size, config.pad_token_id, config.num_labels) == (WORDS, 0, 3)
    assert config.max_position_embeddings >= LENGTH


def test_the_second_text_of_a_pair_is_told_apart() -> None:
    model = make("hf:bert", initializer_range=0.3, **TINY).eval()
    net: Any = model.net
    x = torch.tensor([[2, 5, 6, 3, 7, 8, 3, 0, 0, 0], [2, 5, 6, 3, 0, 0, 0, 0, 0, 0]])
    types = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 0, 0, 0], [0] * 10])
    with torch.no_grad():
        expected = net.model(input_ids=x, attention_mask=(x != 0).long(), token_type_ids=types).logits
        plain = net.model(input_ids=x, attention_mask=(x != 0).long()).logits
        torch.testing.assert_close(model(x), expected)
    assert float((expected - plain)[0].abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("name", "args", "error", "words"),
    [
        ("hf:bertt", {}, InputError, "did you mean `bert`?"),
        ("hf:resnet", {}, InputError, "no text classifier"),
        ("hf:bert", {"vocab_size": 9}, InputError, "no argument `vocab_size`"),
        ("hf:bert", {"pad_token_id": 9}, InputError, "no argument `pad_token_id`"),
        ("hf:bert", {"hiden_size": 9}, InputError, "did you mean `hidden_size`?"),
        ("hf:bert", {"hidden_size": 15}, ModelError, "transformers cannot build hf:bert"),
    ],
)
def test_what_cannot_be_is_refused(name: str, args: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        make(name, **args)
    assert words in str(caught.value)


def test_every_second_block_of_bert_is_a_student() -> None:
    model = make("hf:bert", **TINY).eval()
    step = thin(model, Thin(every=2))
    assert step == {"how": "blocks", "at": "net.model.bert.encoder.layer", "keep": [0, 2]}
    again = rebuilt(make("hf:bert", **TINY).eval(), [step])
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(texts()), model(texts()))
    model.train()(texts()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_bert_can_be_exported() -> None:
    model, x = make("hf:bert", **{**TINY, "num_hidden_layers": 1}).eval(), texts()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        for rows in (1, 5):
            torch.testing.assert_close(program.module()(x[:rows]), model(x[:rows]))


# ---- weights of a folder ---------------------------------------------------------------------------------------------


def test_a_model_that_pads_with_1_hears_its_own_ids(roberta: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    x, encoder = encoded(roberta, ["a b c", "h", "", "a a a a a a a a a a a a"])
    assert encoder.swap == 1
    model = make(f"hf:{roberta}").eval()
    reference = AutoModelForSequenceClassification.from_pretrained(roberta).eval()
    own = encoder.tokenizer
    with torch.no_grad():
        for row, text in zip(x, ["a b c", "h", "", "a a a a a a a a a a a a"], strict=True):
            ids = torch.tensor([own.encode(text).ids])
            torch.testing.assert_close(model(row[None]), reference(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


def test_a_pair_is_read_as_the_folder_was_trained(bert: Path) -> None:
    from transformers import AutoModel

    x, encoder = encoded(bert, ["a b", "c"], ["d", "e f g"])
    model = make(f"hf:{bert}", new_head=True).eval()
    reference = AutoModel.from_pretrained(bert).eval()
    with torch.no_grad(), Taps(model, ["net.pool"]) as taps:
        model(x)
        pooled = taps.take()["net.pool"]
        for row, pair in zip(pooled, [("a b", "d"), ("c", "e f g")], strict=True):
            told = encoder.tokenizer.encode(*pair)
            states = reference(
                input_ids=torch.tensor([told.ids]), token_type_ids=torch.tensor([told.type_ids])
            ).last_hidden_state
            torch.testing.assert_close(row, states[0].mean(0), rtol=1e-5, atol=1e-5)
    assert any("head.weight" in notice for notice in model.notices)


def test_frozen_weights_do_not_learn_and_hear_without_dropout(bert: Path) -> None:
    model = make(f"hf:{bert}", new_head=True, freeze=True).train()
    x, _ = encoded(bert, ["a b", "c d e"])
    assert torch.equal(model(x), model(x))
    model(x).square().sum().backward()
    learned = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert learned == ["net.head.weight", "net.head.bias"]
    assert learning_count(model) == 16 * 3 + 3
    free = make(f"hf:{bert}", new_head=True).train()
    assert not torch.equal(free(x), free(x))
    free(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in free.parameters())


def test_a_classifier_of_other_classes_gets_a_new_head(roberta: Path) -> None:
    with pytest.raises(ModelError, match="has 5 classes"):
        make(f"hf:{roberta}", classes=5)
    model = make(f"hf:{roberta}", classes=5, new_head=True, freeze=True)
    assert model(texts()).shape == (5, 5)
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert learning
    assert all("classifier" in name for name in learning)


def without_tokenizer(place: Path) -> None:
    (place / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("args", "told", "words"),
    [
        ({}, {}, "not complete"),
        ({"new_head": True}, {"vocabulary": 8000}, "not those of"),
        ({"new_head": True}, {"vocabulary": 11}, "tokens: {source:"),
        ({"new_head": True}, {"length": 40}, "reads 16 tokens, the data has 40"),
        ({"freeze": True}, {}, "add new_head: true"),
        ({"new_head": 1}, {}, "new_head=1"),
        ({"depth": 2}, {}, "takes two arguments"),
    ],
    ids=str,
)
def test_a_folder_that_does_not_fit_is_refused(
    bert: Path, args: dict[str, Any], told: dict[str, Any], words: str
) -> None:
    with pytest.raises((ModelError, InputError)) as caught:
        make(f"hf:{bert}", **told, **args)
    assert words in str(caught.value)


def test_positions_behind_the_padding_are_counted(roberta: Path) -> None:
    with pytest.raises(ModelError, match=rf"reads {LENGTH} tokens, the data has {LENGTH + 1}"):
        make(f"hf:{roberta}", length=LENGTH + 1)


def test_without_a_tokenizer_the_config_says_what_padding_is(roberta: Path, tmp_path: Path) -> None:
    for file in roberta.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    x, _ = encoded(roberta, ["a b c", "h"])
    expected = make(f"hf:{roberta}").eval()(x)
    without_tokenizer(tmp_path)
    assert torch.equal(make(f"hf:{tmp_path}").eval()(x), expected)
    with pytest.raises(ModelError, match="not those of"):
        make(f"hf:{tmp_path}", vocabulary=WORDS + 1)


# ---- an embedding as the teacher -------------------------------------------------------------------------------------


def test_a_small_net_learns_the_embedding_of_an_encoder(bert: Path) -> None:
    """Without any label: what the pooled layers put out is compared by distance and direction."""
    from tutelage.data import Batches, Examples, Views
    from tutelage.losses import cosine_hidden, hint
    from tutelage.objective import Term

    draw = np.random.default_rng(0)
    sentences = [" ".join(draw.choice(list("abcdefgh"), size=draw.integers(1, 8))) for _ in range(160)]
    x, _ = encoded(bert, sentences)
    examples = Examples.make(x.int(), torch.arange(160) % 3, ["0", "1", "2"], "texts", vocabulary=WORDS)
    teacher, student = make(f"hf:{bert}", new_head=True).eval(), make("bag", width=16)
    batches = Batches(examples, batch_size=40, views=Views(), seed=0)
    at = {"student": "net.pool", "teacher": "net.pool"}
    terms = [Term(hint, at=tuple(at.values())), Term(cosine_hidden, at=tuple(at.values()))]
    distiller = Distiller(student, teacher, terms, example=next(iter(batches.epoch(0)))).train()
    optimizer = torch.optim.Adam(distiller.parameters(), 0.05)
    losses = []
    for epoch in range(10):
        for batch in batches.epoch(epoch):
            optimizer.zero_grad()
            step = distiller(batch)
            step.loss.backward()
            optimizer.step()
            losses.append(float(step.loss.detach()))
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:2]), losses


# ---- sound -----------------------------------------------------------------------------------------------------------


def test_a_sound_classifier_reads_samples() -> None:
    def sound(classes: int = 4, samples: int = 8000) -> Classifier:
        torch.manual_seed(0)
        spec = ModelSpec("hf:wav2vec2", SOUND)
        return build(spec, input_shape=(samples,), classes=classes, mean=[0.0], std=[1.0])

    model = sound()
    x = torch.randn(3, 8000)
    place = np.random.get_state(legacy=False)["state"]["pos"]  # which the package's own augmentation would move
    model.train()(x).square().sum().backward()
    assert np.random.get_state(legacy=False)["state"]["pos"] == place
    assert model(x).shape == (3, 4)
    with pytest.raises(ModelError, match="reads images, tokens or sounds"):
        sound(samples=20)
