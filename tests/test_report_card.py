"""The model card: a head that the hub takes, names that stay names, facts or "not stated", and code that runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from torch import Tensor, nn

from test_bench import RECIPE
from test_report import make
from tutelage.evaluation import DataFacts, RunFacts
from tutelage.models import NETS, ModelSpec, build, save_weights
from tutelage.recipe import from_mapping
from tutelage.report.card import card
from tutelage.report.plain import NETS as DESCRIBED
from tutelage.report.plain import snippet
from tutelage.run import load_student, run_recipe

FILE = "students/taught/seed-0/student.safetensors"
HOSTILE = [
    "cat & dog",
    "<script>alert(1)</script>",
    "\"quotes\" 'both'",
    "\u202eright to left \u05d0\u05d1",
    "x" * 300,
    "words " * 40 + "end",
    "🦄👩\u200d🚀",
    "鸟和猫",
    "--- a: b",
    "# no comment",
    "{a: [b",
    "&anchor *alias !!python/object:os.system",
    "yes",
    "1e3",
    "~",
    "%TAG",
    "a\u2028b\u0085c",
    " spaces  around ",
    "[link](javascript:alert(1)) ![img](x) http://example.invalid www.example.invalid",
    "**bold** ~~gone~~ `code` ``` \\ | &amp; $$x$$",
]


def recipe(**parts: Any) -> dict[str, Any]:
    return {
        "name": "pets",
        "data": {"source": "digits", "path": None},
        "teacher": {"model": "hf:owner/big-net_1.0"},
        "student": {"model": "mlp", "args": {"width": 4}},
    } | parts


def written(
    text: str | dict[str, Any] | None = None,
    *,
    classes: Any = ("a", "b", "c"),
    name: str = "pets",
    data: str = "digits",
    counts: list[int] | None = None,
) -> Any:
    """A report of a run with this recipe."""
    text = recipe() if text is None else text
    text = text if isinstance(text, str) else yaml.safe_dump(text)
    load = 'from tutelage.run import load_student\n\nstudent = load_student("students/taught/seed-0")'
    each = [9] * len(classes)
    return make(
        classes=classes,
        data=DataFacts(data, {"train": counts or each, "test": each}, "f" * 64, "e" * 64),
        run=RunFacts(name, text, "tutelage run pets.yaml", load, {"tutelage": "0.1.0"}, 9.0, True),
    )


def head(text: str) -> dict[str, Any]:
    found = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def block(text: str, language: str) -> list[str]:
    """The code blocks of a language, as a Markdown parser finds them."""
    return [token.content for token in MarkdownIt().parse(text) if token.type == "fence" and token.info == language]


# ---- the head --------------------------------------------------------------------------------------------------------


def test_the_hub_reads_every_key_and_gives_the_results_back() -> None:
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub, which reads cards")
    report = written()
    data = hub.ModelCard(card(report), ignore_metadata_errors=False).data
    assert (data.license, data.base_model, data.datasets) == ("unknown", "owner/big-net_1.0", ["digits"])
    assert (data.library_name, data.pipeline_tag) == ("pytorch", "image-classification")
    assert {"knowledge-distillation", "tutelage"} <= set(data.tags)
    index = head(card(report))["model-index"]
    name, results = hub.repocard_data.model_index_to_eval_results(index)
    assert name == "pets"
    assert hub.repocard_data.eval_results_to_model_index(name, results) == index
    taught = report["models"][2]["metrics"]
    assert {one.metric_type: one.metric_value for one in results} == {
        hub_name: pytest.approx(taught[ours]["value"], abs=1e-6)
        for hub_name, ours in (("accuracy", "accuracy"), ("recall", "macro_recall"), ("f1", "macro_f1"))
    }
    assert data.metrics == [one.metric_type for one in results]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_any_name_comes_back_from_the_head_as_it_was(name: str) -> None:
    report = written(name=name, data=name)
    found = head(card(report))
    assert found["model-index"][0]["name"] == name
    assert found["model-index"][0]["results"][0]["dataset"]["name"] == name
    assert found["datasets"] == [name]
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub, which reads cards")
    read = hub.ModelCard(card(report), ignore_metadata_errors=False)
    assert read.data.model_name == name
    assert read.text.lstrip().startswith("# ")


@pytest.mark.parametrize(
    ("parts", "bases"),
    [
        ({}, "owner/big-net_1.0"),
        ({"teacher": {"model": "cnn"}}, None),
        ({"teacher": {"model": "hf:resnet"}}, None),
        ({"teacher": {"model": "hf:/models/big"}}, None),
        ({"teacher": {"model": "hf:./models/big"}}, None),
        ({"teacher": {"model": "hf:~/big"}}, None),
        ({"teacher": {"model": "package.module:build"}}, None),
        ({"teacher": None, "student": None}, None),
        ({"student": {"model": "hf:else/small"}}, ["else/small", "owner/big-net_1.0"]),
        ({"student": {"model": "hf:owner/big-net_1.0"}}, "owner/big-net_1.0"),
        ({"student": None, "students": {"s": {"model": "hf:else/s"}}}, ["else/s", "owner/big-net_1.0"]),
    ],
)
def test_only_models_of_the_hub_are_named_as_a_base(parts: dict[str, Any], bases: Any) -> None:
    found = head(card(written(recipe(**parts))))
    assert found.get("base_model") == bases
    assert ("base_model_relation" in found) == (bases is not None)


def test_of_several_students_the_headlines_own_counts() -> None:
    report = written(recipe(student=None, students={"s": {"model": "cnn"}, "t": {"model": "hf:else/tiny"}}))
    report["models"][2]["student"] = "t"
    assert head(card(report))["base_model"] == ["else/tiny", "owner/big-net_1.0"]


@pytest.mark.parametrize(
    "text", [recipe(data={"source": "folder", "path": "/data/pets"}), "# teacher: a module\n", "a: [", "- a list"]
)
def test_only_public_sets_are_named_as_data_sets(text: Any) -> None:
    assert "datasets" not in head(card(written(text)))


# ---- the body --------------------------------------------------------------------------------------------------------


def test_names_are_text_to_a_markdown_reader() -> None:
    report = written(classes=HOSTILE, name=HOSTILE[-1], data=HOSTILE[-2])
    report["warnings"] = [{"code": "x", "text": f"about {name}"} for name in HOSTILE]
    body = card(report).split("\n---\n", 1)[1]
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = [inner for token in reader.parse(body) for inner in (token, *(token.children or []))]
    kinds = {token.type for token in tokens}
    assert not kinds & {"link_open", "image", "s_open", "html_inline", "em_open", "strong_open"}
    raw = {line for token in tokens if token.type == "html_block" for line in token.content.split("\n") if line}
    assert raw <= {
        "</details>",
        "<details><summary>The recipe</summary>",
        "<details><summary>The classes, in the order of the logits</summary>",
    }
    inline = [
        "".join(
            child.content for child in token.children or [] if child.type in ("text", "code_inline", "text_special")
        )
        for token in tokens
        if token.type == "inline"
    ]
    for name in HOSTILE:
        shown = " ".join(name.split()).replace("\u202e", "\\u202e")  # a mark that turns text is written out
        assert f"about {shown}".rstrip() in inline
    assert "\u202e" not in body
    assert re.search(r"(?<!\\)www\.|http(?!s?\\:)", body.split("```")[0]) is None  # some readers link bare addresses


def test_the_order_of_the_logits_is_there_to_be_read_by_a_program() -> None:
    assert json.loads(block(card(written(classes=HOSTILE)), "json")[0]) == HOSTILE


def test_limits_name_the_weak_classes_and_the_unseen() -> None:
    report = written(classes=tuple(f"kind {i}" for i in range(8)))
    for row, recall in zip(report["per_class"], (0.9, 0.2, 0.8, 0.1, 0.7, 0.95, 0.3, 0.99), strict=True):
        row["recall"]["taught"] = recall
    report["per_class"][3] |= {"n": 0, "interval": None}
    text = card(report)
    assert "Weakest classes by recall on the test part: ‘kind 1’ 20.0 %, ‘kind 6’ 30.0 %, ‘kind 4’ 70.0 %." in text
    assert "Without any test example, so nothing is known of them: ‘kind 3’." in text
    assert "Without any test example" not in card(written())


def test_what_nobody_said_is_not_stated() -> None:
    text = card(written())
    section = text.split("## Licences\n")[1].split("##")[0]
    assert section.count("not stated") == 3
    assert "hf:owner/big-net\\_1.0: not stated, see its page on the hub." in section
    assert "see its page" not in card(written(recipe(teacher={"model": "cnn"})))


def test_it_says_what_it_is_for_how_wrong_it_was_and_how_to_get_it_again() -> None:
    report = written()
    text = card(report)
    wrong = 1 - report["models"][2]["metrics"]["accuracy"]["value"]
    assert f"It was wrong on {wrong * 100:.1f} % of the test examples" in text
    assert "Image classification: examples like those of digits, each of exactly one of 3 classes." in text
    assert block(text, "console") == ["tutelage run pets.yaml\n"]
    assert yaml.safe_load(block(text, "yaml")[0]) == recipe()
    titles = re.findall(r"(?m)^## (.*)$", text)
    assert titles == [
        "Results", "Intended use", "Limits", "Licences", "Load the student", "Cite", "Get the same numbers",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["pets-1.0", "a_b%{c}\\d"])
def test_the_citation_names_the_file_and_is_balanced(name: str) -> None:
    (entry,) = block(card(written(name=name)), "bibtex")
    assert re.fullmatch(r"@misc\{[A-Za-z0-9-]+,\n  title = \{[^{}]*\},\n  note = \{[^{}]*\},\n\}\n", entry)
    assert f"SHA-256 of the file: {0:064x}" in entry
    assert "tutelage 0.1.0" in entry
    assert not re.search(r"(?<!\\)[%&#_$]", entry)


# ---- code ------------------------------------------------------------------------------------------------------------


def run_code(code: str, **names: Any) -> Any:
    """What a reader of the card does: paste and run."""
    space: dict[str, Any] = dict(names)
    exec(code, space)  # noqa: S102
    return space["student"]


def saved(folder: Path, model: str, shape: tuple[int, ...], **args: Any) -> nn.Module:
    """A net whose every buffer has moved, in a run's folder."""
    spec = ModelSpec(model, args)
    net = build(spec, input_shape=shape, classes=5, mean=[0.3], std=[0.4])
    net.train()
    net(torch.rand(16, *shape))
    (folder / FILE).parent.mkdir(parents=True)
    save_weights(net, folder / FILE)
    return net.eval()


def test_every_built_in_net_is_described() -> None:
    assert set(DESCRIBED) == {name for name, info in NETS.items() if info.reads != "tokens"}


@pytest.mark.parametrize(
    ("model", "shape", "args"),
    [
        ("mlp", (7,), {"width": 9, "depth": 3, "dropout": 0.5}),
        ("mlp", (1, 8, 8), {"depth": 1}),
        ("cnn", (1, 28, 28), {"width": 4}),
        ("cnn", (3, 8, 13), {"width": 6, "depth": 4}),
        ("dscnn", (3, 32, 20), {"width": 4, "depth": 4}),
        ("dscnn", (1, 5, 5), {"width": 4, "depth": 1}),
        ("gru", (6, 3), {"width": 5, "depth": 2}),
        ("gru", (2, 8, 6), {"width": 5}),
        ("transformer", (1, 8, 8), {"width": 8, "depth": 2}),
        ("transformer", (6, 3), {"width": 6, "depth": 1, "heads": 2}),
    ],
)
def test_a_built_in_net_needs_only_torch(
    model: str, shape: tuple[int, ...], args: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = saved(tmp_path, model, shape, **args)
    monkeypatch.chdir(tmp_path)
    (code,) = [c for c in block(card(written(recipe(student={"model": model, "args": args}))), "python") if "def" in c]
    assert "tutelage" not in code
    inputs = torch.rand(4, *shape)
    with torch.no_grad():
        torch.testing.assert_close(run_code(code)(inputs), net(inputs))


def test_any_other_net_is_filled_by_its_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net: Any = saved(tmp_path, "mlp", (7,))
    monkeypatch.chdir(tmp_path)
    code = snippet(FILE, "package.module:build", {})
    assert "net = ..." in code
    empty = build(ModelSpec("mlp", {}), input_shape=(7,), classes=5, mean=[0.0], std=[1.0]).net
    inputs = torch.rand(4, 7)
    torch.testing.assert_close(run_code(code.replace("net = ...", "net = given"), given=empty)(inputs), net(inputs))


def test_a_path_stays_one_word_of_python() -> None:
    odd = 'a"b\\c'
    space: dict[str, Any] = {}
    line = next(line for line in snippet(odd, "mlp", {}).splitlines() if line.startswith("w = "))
    exec(line, {"load_file": lambda path: path}, space)  # noqa: S102
    assert space["w"] == odd


def test_lines_that_need_no_library_are_not_said_twice() -> None:
    report = written()
    report["load_snippet"] = "from safetensors.torch import load_file"
    assert block(card(report), "python") == ["from safetensors.torch import load_file\n"]


def test_both_ways_of_loading_work_in_a_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_recipe(from_mapping(RECIPE), tmp_path / "run", quiet=True).folder
    monkeypatch.chdir(folder)
    ours, plain = block((folder / "README.md").read_text(encoding="utf-8"), "python")
    inputs = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        expected: Tensor = load_student("students/distilled/seed-3")(inputs)
        torch.testing.assert_close(run_code(ours)(inputs), expected)
        torch.testing.assert_close(run_code(plain)(inputs), expected)
