"""Students that read tokens, tables and sounds, after training: shipped, served, asked by others, judged anew."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tutelage
from tutelage.compress import Prune, Rank, Shrink, plain, rebuilt, shrink
from tutelage.compress.quantise import Quantise, quantise, watch
from tutelage.compress.thinning import Thin
from tutelage.data import Rows, Splits, as_model_input, from_rows
from tutelage.data.encoders.text import fit_tokens
from tutelage.data.sets import SETS
from tutelage.data.sets.protocol import Set
from tutelage.demo import prepare
from tutelage.errors import DamagedError, InputError, ModelError
from tutelage.export import Facts, Runner, example_inputs, export_model, open_artifact
from tutelage.export.narrow import narrowed
from tutelage.export.plain import open_plain, write_plain
from tutelage.export.quantised import write_int8
from tutelage.models import ModelSpec, build
from tutelage.recipe import from_mapping
from tutelage.report import artifacts
from tutelage.report.card import card
from tutelage.report.html import _forgotten
from tutelage.run import load_student, run_recipe
from tutelage.run.bench import bench_files
from tutelage.run.compressing import Compressing, compress_run
from tutelage.run.evaluate import evaluate_run
from tutelage.run.exports import brief_of, facts_for
from tutelage.run.job import statistics
from tutelage.run.pictures import forgotten_pictures
from tutelage.serve import Limits, RefusedError
from tutelage.serve.application import Service
from tutelage.serve.columns import Columns, columns_of
from tutelage.serve.reading import Asked, read
from tutelage.serve.server import _is_independent

JSON, RAW = "application/json", "application/octet-stream"
WORDS = {"net": "socket packet router wire", "math": "matrix prime integral proof", "game": "player score dragon quest"}
COMMON = ["The", "a", "For", "small", "fast"]
INPUTS: dict[str, dict[str, Any]] = {
    "x": {"text": ["said"], "tokens": {"vocabulary": 120, "length": 10}},
    "pair": {"text": ["title", "said"], "tokens": {"vocabulary": 120, "length": 14}},
    "raw": {"text": ["said"]},
    "words": {"text": ["said"], "words": 20},
    "ids": {"ids": "bought"},
    "t": {"numbers": ["age"], "categories": ["town"]},
}


def columns(count: int = 640, seed: int = 0) -> dict[str, list[Any]]:
    random = np.random.default_rng(seed)
    kinds = random.choice(sorted(WORDS), size=count)
    made: dict[str, list[Any]] = {"kind": kinds.tolist(), "age": [], "town": [], "said": [], "title": [], "bought": []}
    for number, kind in enumerate(kinds):
        said = [*random.choice(WORDS[kind].split(), size=2), *random.choice(COMMON, size=3)]
        made["said"].append(" ".join([*said, f"n{number}"]))
        made["title"].append(str(random.choice(WORDS[kind].split())))
        made["age"].append(float(random.normal(3 * sorted(WORDS).index(kind))))
        made["town"].append(str(random.choice(["Ulm", "Kiel", "Bonn"])))
        made["bought"].append(" ".join(map(str, random.integers(0, 30, size=4))))
    return made


@pytest.fixture(scope="module")
def splits() -> Splits:
    return from_rows(columns(), label="kind", inputs=INPUTS)


def student(splits: Splits, view: str, model: str, **args: Any) -> tuple[nn.Module, Facts]:
    """An untrained student of one view, and its facts."""
    seen = splits.train.reading(view)
    mean, std = statistics(seen)
    torch.manual_seed(0)
    spec = ModelSpec(model, args, None)
    net = build(spec, input_shape=seen.shape, classes=3, mean=mean, std=std, vocabulary=seen.vocabulary).eval()
    with torch.no_grad():  # as spread as those of a trained one
        for parameter in net.parameters():
            parameter.mul_(3.0)
    facts = Facts(
        splits.train.classes, seen.shape, model, args, tuple(mean), tuple(std), "small", encoding=seen.encodings[view]
    )
    return net, facts


def seen(splits: Splits, view: str, count: int = 256) -> torch.Tensor:
    return as_model_input(splits.train.reading(view).inputs[:count])


def exported(splits: Splits, folder: Path, view: str, how: str, model: str, **args: Any) -> tuple[nn.Module, Path]:
    net, facts = student(splits, view, model, **args)
    x = seen(splits, view)
    path = (
        folder / {"onnx": "s.onnx", "onnx-int8": "s.int8.onnx", "torch": "s.pt2", "safetensors": "s.safetensors"}[how]
    )
    export_model(net, facts, path, how=how, calibration=x, inputs=x)
    return net, path


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "how", "model", "args"),
    [
        ("x", "onnx", "bag", {"width": 8}),
        ("x", "torch", "transformer", {"width": 8, "depth": 1, "heads": 2}),
        ("ids", "safetensors", "gru", {"width": 6}),
        ("t", "onnx", "mlp", {"width": 6, "depth": 1}),
    ],
    ids=["bag onnx", "transformer torch", "gru safetensors", "table onnx"],
)
def test_files_answer_as_their_models_and_carry_what_makes_their_inputs(
    splits: Splits, tmp_path: Path, view: str, how: str, model: str, args: dict[str, Any]
) -> None:
    net, path = exported(splits, tmp_path, view, how, model, **args)
    runner = open_artifact(path, threads=1, trust=True)
    x = seen(splits, view, 9)
    assert x.dtype == (torch.float32 if view == "t" else torch.int64)
    with torch.no_grad():
        expected = net(x).numpy()
    for size in (1, 9):
        found = np.concatenate([runner(x[start : start + size].numpy()) for start in range(0, 9, size)])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert runner.facts.encoding == json.loads(json.dumps(splits.train.encodings[view]))
    if how == "onnx" and view == "x":
        import onnx

        assert onnx.load(str(path)).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT64


def test_tables_of_vectors_ship_in_eight_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec, x = ModelSpec("transformer", {"width": 16, "depth": 1}, None), torch.randint(1, 9000, (300, 8))
    net = build(spec, input_shape=(8,), classes=3, mean=[0.0], std=[1.0], vocabulary=9000).eval()
    x[:, 6:] = 0
    facts = Facts(("a", "b", "c"), (8,), encoding={"kind": "ids", "vocabulary": 9000})
    sizes = {}
    for how, name in (("safetensors", ""), ("onnx-int8", "s.int8.onnx")):
        if name:
            made = export_model(net, facts, tmp_path / name, how=how, calibration=x, inputs=x)
            assert made.parity.agreement > 0.95
            sizes[how] = made.bytes
    assert sizes["onnx-int8"] < sum(4 * one.numel() for one in net.parameters()) / 2.7  # a scale for every 16 numbers
    small = narrowed(net)
    table, rounded = net.get_submodule("net.embed.table").weight.detach(), small.get_submodule("net.embed.table")
    found = rounded(torch.arange(9000))
    # No number is further off than half a step of its own row; padding stays exactly 0.
    step = table.abs().amax(1, keepdim=True) / 127
    assert bool(((found - table).abs() <= 0.501 * step).all())
    assert found[0].abs().max() == 0
    assert net.get_submodule("net.embed.table").weight is not None, "the model itself is left alone"


def test_what_learned_with_rounding_has_small_tables_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = ModelSpec("bag", {"width": 16}, None)
    net = build(spec, input_shape=(8,), classes=3, mean=[0.0], std=[1.0], vocabulary=4000).eval()
    x = torch.randint(1, 4000, (64, 8))
    quantise(net, Quantise())
    watch(net, x)
    facts = Facts(("a", "b", "c"), (8,), encoding={"kind": "ids", "vocabulary": 4000})
    write_int8(net, facts, x, tmp_path / "s.int8.onnx")
    assert (tmp_path / "s.int8.onnx").stat().st_size < 4 * 4000 * 16 / 2.5
    with torch.no_grad():
        expected = net.eval()(x).numpy()
    found = open_artifact(tmp_path / "s.int8.onnx", threads=1)(x.numpy())
    assert np.abs(found - expected).max() < 0.05 * expected.std() + 1e-3


def test_small_and_shared_tables_stay_as_they_are() -> None:
    small = nn.Sequential(nn.Embedding(100, 8))
    assert narrowed(small) is small
    tied = nn.ModuleDict({"table": nn.Embedding(5000, 8), "head": nn.Linear(8, 5000)})
    tied["head"].weight = tied["table"].weight  # type: ignore[assignment]
    assert narrowed(tied) is tied


@pytest.mark.parametrize(
    ("how", "steps"),
    [
        (Shrink(prune=Prune(0.5, kind="unstructured"), rank=Rank(0.9)), ["rank", "zeros"]),
        (Shrink(prune=Prune(0.7), layers=Thin(every=2)), ["blocks", "sizes"]),
    ],
    ids=["ranks and zeros", "channels and blocks"],
)
def test_a_smaller_student_ships_with_the_steps_that_build_it(
    splits: Splits, tmp_path: Path, how: Shrink, steps: list[str]
) -> None:
    net, facts = student(splits, "x", "transformer", width=8, depth=2, heads=2)
    x = seen(splits, "x", 64)
    small = shrink(net, how, x, splits.train.targets[:64])
    shipped = plain(small.module).eval()
    told = Facts(**{name: getattr(facts, name) for name in facts.__slots__} | {"smaller": small.steps})
    write_plain(shipped, told, x, tmp_path / "s.safetensors")
    with torch.no_grad():
        np.testing.assert_allclose(open_plain(tmp_path / "s.safetensors")(x.numpy()), shipped(x), rtol=1e-5, atol=1e-6)
    assert [step["how"] for step in small.steps] == steps


@pytest.mark.parametrize(
    ("model", "args"), [("bag", {"width": 16}), ("transformer", {"width": 16, "depth": 1})], ids=["bag", "transformer"]
)
def test_a_table_of_low_rank_becomes_two_factors_that_say_the_same(model: str, args: dict[str, Any]) -> None:
    def anew() -> nn.Module:
        spec = ModelSpec(model, args, None)
        return build(spec, input_shape=(9,), classes=3, mean=[0.0], std=[1.0], vocabulary=2000).eval()

    torch.manual_seed(0)
    net, x = anew(), torch.randint(1, 2000, (64, 9))
    x[:, 7:] = 0
    with torch.no_grad():
        table = net.get_submodule("net.embed.table").weight
        table.copy_(torch.randn(2000, 3) @ torch.randn(3, 16))
        table[0] = 0.0
    small = shrink(net, Shrink(rank=Rank(0.35)), x, torch.arange(64) % 3)
    count, whole = (sum(one.numel() for one in each.parameters()) for each in (small.module, net))
    assert count <= 0.35 * whole
    assert small.steps[0]["ranks"]["net.embed.table"] >= 3
    torch.testing.assert_close(small.module.eval()(x), net(x), rtol=1e-4, atol=1e-5)
    again = rebuilt(anew(), small.steps)
    again.load_state_dict(small.module.state_dict())
    torch.testing.assert_close(again.eval()(x), small.module(x))


@pytest.mark.parametrize("model", ["bag", "gru"])
def test_nets_that_are_mostly_a_table_have_no_channels_to_cut_and_say_so(splits: Splits, model: str) -> None:
    net, _ = student(splits, "x", model, width=8)
    with pytest.raises(ModelError, match=r"channel(.|\n)*unstructured"):
        shrink(net, Shrink(prune=Prune(0.5, of="parameters")), seen(splits, "x", 64), splits.train.targets[:64])


def test_made_up_inputs_are_of_the_kind_that_is_read(splits: Splits) -> None:
    for view, spec in splits.train.encodings.items():
        shape = splits.train.reading(view).shape
        found = example_inputs(shape, spec, 50)
        assert found.shape == (50, *shape)
        np.testing.assert_array_equal(found, example_inputs(shape, spec, 50))
        if vocabulary := spec["vocabulary"]:
            assert (found.dtype, found.min() >= 1, found.max() < vocabulary) == (np.dtype("int64"), True, True)
        else:
            assert found.dtype == np.float32
    assert example_inputs((4,), {"kind": "table"}, 200).min() < -1 < 0 <= example_inputs((4,), None, 200).min()


def test_a_text_student_can_be_timed(splits: Splits, tmp_path: Path) -> None:
    _, one = exported(splits, tmp_path, "x", "safetensors", "bag", width=4)
    found = bench_files([one], batch_sizes=(1,), seconds=0.1)
    assert found.models[0].latency[0].p50_ms > 0
    (tmp_path / "pair").mkdir()
    _, other = exported(splits, tmp_path / "pair", "pair", "safetensors", "bag", width=4)
    with pytest.raises(InputError, match=r"several shapes.*\n.*10,\) of 120 tokens"):
        bench_files([one, other], seconds=0.1)


@pytest.mark.parametrize(
    "packed",
    [
        {"zlib": base64.b64encode(zlib.compress(b"x" * 2**27)).decode()},
        {"zlib": base64.b64encode(zlib.compress(b"{}")[:-3]).decode()},
        {"zlib": "no base64"},
        {"zlib": base64.b64encode(b"nothing").decode()},
        {"gzip": ""},
    ],
    ids=["endless", "cut off", "no base64", "no zlib", "another"],
)
def test_a_tokenizer_that_does_not_unpack_is_damage(packed: Mapping[str, str]) -> None:
    told = json.loads(Facts(("a", "b"), (4,), encoding={"kind": "tokens", "vocabulary": 9}).to_text())
    told["encoding"]["tokenizer"] = packed
    with pytest.raises(DamagedError, match="does not say what goes in"):
        Facts.from_text(json.dumps(told), "the file")


# ---- served ----------------------------------------------------------------------------------------------------------


def taken(splits: Splits, view: str) -> Columns:
    _, facts = student(splits, view, "mlp" if view in ("t", "words") else "bag")
    found = columns_of(facts)
    assert found is not None
    return found


def ask(reads: Columns | None, shape: tuple[int, ...], told: Any) -> Asked:
    body = told if isinstance(told, bytes) else json.dumps(told).encode()
    return read(JSON, body, shape, 2**20, reads)


@pytest.mark.parametrize("view", ["x", "pair", "words", "ids", "t"])
def test_rows_become_what_training_read(splits: Splits, view: str) -> None:
    given, examples = columns(), splits.train.reading(view)
    places = examples.origins[:5].tolist()
    reads = taken(splits, view)
    rows = [{name: given[name][place] for name in reads.kinds} | {"more": "passed over"} for place in places]
    asked = ask(reads, examples.shape, {"rows": rows, "ids": [1, 2, 3, 4, 5]})
    expected = as_model_input(examples.inputs[:5]).numpy()
    assert (asked.rows.dtype, asked.ids) == (expected.dtype, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(asked.rows, expected)


def test_what_is_missing_in_a_table_may_be_null_and_numbers_may_name(splits: Splits) -> None:
    reads = taken(splits, "t")
    assert reads.kinds == {"age": "number or null", "town": "text, number or null"}
    found = ask(
        reads, splits.train.reading("t").shape, {"rows": [{"age": None, "town": None}, {"age": 1, "town": 7.5}]}
    )
    assert np.isfinite(found.rows).all()


@pytest.mark.parametrize(
    ("view", "told", "status", "said"),
    [
        ("x", {"rows": [{"saying": "a"}]}, 422, "example 0 has no column `said`"),
        ("x", {"rows": [{"said": "a"}, {}]}, 422, "example 1 has no column `said`"),
        ("x", {"rows": [{"said": None}]}, 422, "the column `said` of example 0 holds something else"),
        ("x", {"rows": [{"said": ["a"]}]}, 422, "a list"),
        ("x", {"rows": [{"said": 3}]}, 422, "a number"),
        ("x", {"rows": []}, 422, "no list of objects"),
        ("x", {"rows": {"said": "a"}}, 422, "no list of objects"),
        ("x", {"rows": [["a"]]}, 422, "no list of objects"),
        ("x", {"rows": [{"said": "a" * 200_000}]}, 413, "too long"),
        ("x", {"rows": [{"said": "a" * 90_000}] * 12}, 413, "too long"),
        ("x", {"rows": [{"said": ""}] * 60_000}, 413, "too many rows"),
        ("x", {"rows": [{"said": "a"}], "inputs": [[1] * 10]}, 400, "inputs and rows"),
        ("x", b'{"rows": [{"said": "a", "said": "b"}]}', 400, "stands twice"),
        ("x", {"inputs": [[1] * 9 + [120]]}, 422, "not in the vocabulary"),
        ("x", {"inputs": [[1] * 9 + [-1]]}, 422, "not in the vocabulary"),
        ("x", {"inputs": [[1] * 9 + [1.0]]}, 422, "no whole number"),
        ("x", {"inputs": [[1] * 9 + [True]]}, 422, "no number"),
        ("x", {"inputs": [[1] * 9 + [10**30]]}, 422, "too large"),
        ("x", {"inputs": [[1] * 11]}, 422, "another shape"),
        ("t", {"rows": [{"age": "3", "town": "Ulm"}]}, 422, "the column `age`"),
        ("t", {"rows": [{"age": True, "town": "Ulm"}]}, 422, "true or false"),
        ("t", {"rows": [{"age": 10**400, "town": "Ulm"}]}, 422, "`age`"),
        ("t", b'{"rows": [{"age": NaN, "town": "Ulm"}]}', 422, "not finite"),
        ("t", b'{"rows": [{"age": 1e999, "town": "Ulm"}]}', 422, "infinite"),
        ("t", {"rows": [{"age": 3, "town": {"a": 1}}]}, 422, "an object"),
    ],
)
def test_rows_that_cannot_be_answered(splits: Splits, view: str, told: Any, status: int, said: str) -> None:
    with pytest.raises(RefusedError) as caught:
        ask(taken(splits, view), splits.train.reading(view).shape, told)
    assert caught.value.status == status, caught.value
    body = caught.value.body().decode("ascii")
    assert said in body
    assert "Traceback" not in body


@pytest.mark.parametrize("text", ["", "\ud800", "a\udfff b", "\0\x01\x1b[2J", "\u202e" * 50, "!" * 5000, "[PAD] [SEP]"])
@pytest.mark.parametrize("view", ["x", "words", "ids"])
def test_odd_texts_are_read_like_any_other(splits: Splits, view: str, text: str) -> None:
    reads, shape = taken(splits, view), splits.train.reading(view).shape
    rows = ask(reads, shape, {"rows": [dict.fromkeys(reads.kinds, text)]}).rows
    assert rows.shape == (1, *shape)
    assert 0 <= rows.min() <= rows.max() <= max(1, reads.vocabulary - 1)


def test_tokens_come_as_bytes_too_and_pictures_do_not_know_rows(splits: Splits) -> None:
    reads, x = taken(splits, "x"), seen(splits, "x", 3).numpy()
    np.testing.assert_array_equal(read(RAW, x.astype("<i8").tobytes(), (10,), 2**20, reads).rows, x)
    with pytest.raises(RefusedError, match="int64, little-endian"):
        read(RAW, b"1234", (10,), 2**20, reads)
    with pytest.raises(RefusedError, match="reads no columns"):
        ask(None, (1, 8, 8), {"rows": [{"said": "a"}]})


def test_sounds_are_rows_of_samples_and_their_pictures_are_not_limited(splits: Splits) -> None:
    from tutelage.data.encoders.sound import fit_sound

    random = np.random.default_rng(0)
    rows = Rows("sounds", {"s": random.normal(0, 0.1, (6, 400)).astype(np.float32)}, {"s": 8000})
    encoder = fit_sound(rows, "s", mels=4)
    view = encoder.encode(rows).numpy()
    reads = Columns(Facts(("a", "b"), view.shape[1:], encoding={**encoder.facts(), "vocabulary": 0}))
    asked = ask(reads, view.shape[1:], {"rows": [{"s": one.tolist()} for one in rows.columns["s"]]})
    np.testing.assert_allclose(asked.rows, view, atol=1e-5)
    assert view.min() < 0
    np.testing.assert_allclose(ask(reads, view.shape[1:], {"inputs": view.tolist()}).rows, view, atol=1e-6)
    for bad in ([0.0] * 399, "abc", [0.0] * 399 + ["a"], [0.0] * 399 + [1e39]):
        with pytest.raises(RefusedError):
            ask(reads, view.shape[1:], {"rows": [{"s": bad}]})


def test_an_encoding_that_makes_other_inputs_than_the_model_reads_is_noticed(splits: Splits) -> None:
    _, facts = student(splits, "x", "bag")
    with pytest.raises(ModelError, match="makes others than it reads"):
        Columns(Facts(("a", "b"), (11,), encoding=facts.encoding))


def test_the_server_answers_for_rows_and_says_which(splits: Splits, tmp_path: Path) -> None:
    net, path = exported(splits, tmp_path, "x", "safetensors", "bag", width=8)
    runner: Runner = open_artifact(path, threads=1)
    assert _is_independent(runner)
    service = Service(runner, {"name": "n", "format": "f", "sha256": "0", "bytes": 1}, Limits())
    given, place = columns(), int(splits.train.origins[0])

    async def talk() -> list[tuple[int, Any]]:
        async with service.application.router.lifespan_context(service.application):
            return [
                await _http(service, "GET", "/model"),
                await _http(service, "POST", "/predict?logits=true", {"rows": [{"said": given["said"][place]}]}),
                await _http(service, "POST", "/predict", {"rows": [{"text": "a"}]}),
            ]

    model, right, wrong = asyncio.run(talk())
    assert (model[0], model[1]["columns"], model[1]["vocabulary"]) == (200, {"said": "text"}, 120)
    with torch.no_grad():
        expected = net(seen(splits, "x", 1))[0].numpy()
    assert right[0] == 200
    np.testing.assert_allclose(right[1]["logits"][0], expected, rtol=1e-4, atol=1e-5)
    assert (wrong[0], wrong[1]["error"]["what"]) == (422, "example 0 has no column `said`")


async def _http(service: Service, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    where, _, query = path.partition("?")
    headers = [(b"host", b"localhost"), (b"content-type", JSON.encode())]
    scope = {"type": "http", "method": method, "path": where, "query_string": query.encode(), "headers": headers,
             "app": service.application, "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
             "server": ("localhost", 80), "client": ("127.0.0.1", 1), "root_path": ""}  # fmt: skip
    parts = [{"type": "http.request", "body": b"" if body is None else json.dumps(body).encode(), "more_body": False}]
    said: list[Any] = []

    async def receive() -> Any:
        return parts.pop(0) if parts else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        said.append(message)

    await service.application(scope, receive, send)
    return said[0]["status"], json.loads(b"".join(one.get("body", b"") for one in said[1:]))


# ---- asked without us ------------------------------------------------------------------------------------------------


def asked_by_snippet(row: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The variables of the lines, once they ran."""
    monkeypatch.chdir(folder)
    code, room = artifacts.snippet(row), dict[str, Any]()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(code, "snippet", "exec"), room)  # noqa: S102  our own lines
    assert said.getvalue().startswith("['")
    return room


def row_of(runner: Runner, path: Path, how: str) -> dict[str, Any]:
    assert runner.facts.encoding is not None
    return {"file": path.name, "format": how, "input_shape": list(runner.facts.input_shape),
            "encoding": brief_of(runner.facts.encoding)}  # fmt: skip


@pytest.mark.parametrize("view", ["x", "pair", "ids", "t", "words"])
def test_the_lines_of_the_report_answer_as_we_do(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: str
) -> None:
    how = "onnx" if view == "pair" else "torch"  # the others are quicker to write, and the lines differ in what asks
    model = "mlp" if view in ("t", "words") else "bag"
    _, path = exported(splits, tmp_path, view, how, model, width=4)
    runner = open_artifact(path, threads=1, trust=True)
    row = row_of(runner, path, how)
    room = asked_by_snippet(row, tmp_path, monkeypatch)
    code = artifacts.snippet(row)
    reads = columns_of(runner.facts)
    assert reads is not None
    assert ("tutelage.data" in code) == (view in ("t", "words"))
    if view in ("t", "words"):
        rows = [{"age": 0.0, "town": "some words"} if view == "t" else {"said": "some words"}]
    elif view == "pair":
        rows = [{"title": a, "said": b} for a, b in room["texts"]]
    else:
        rows = [{next(iter(reads.kinds)): text} for text in room["texts"]]
    x = ask(reads, runner.facts.input_shape, {"rows": rows}).rows
    np.testing.assert_array_equal(room["x"], x)
    np.testing.assert_allclose(np.asarray(room["logits"]), runner(x), rtol=1e-5, atol=1e-6)
    assert row["encoding"]["kind"] in (artifacts._needs(row) + "tokens ids words table")
    if view == "pair":
        assert artifacts._needs(row) == "with onnxruntime and tokenizers alone"


def test_the_lines_know_a_tokenizer_that_pads_with_another_id(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(splits.train.encodings["x"]["tokenizer"])
    (folder / "tokenizer_config.json").write_text('{"pad_token": "[SEP]"}')
    rows = Rows("own", {"said": np.array(["small net", "a dragon"], dtype=object)})
    encoder = fit_tokens(rows, ("said",), length=10, source=folder)
    assert encoder.swap == 3
    torch.manual_seed(0)
    net = build(ModelSpec("bag", {}, None), input_shape=(10,), classes=2, mean=[0.0], std=[1.0],
                vocabulary=encoder.vocabulary).eval()  # fmt: skip
    facts = Facts(("a", "b"), (10,), encoding={**encoder.facts(), "vocabulary": encoder.vocabulary})
    from tutelage.export.program import write_program

    write_program(net, facts, as_model_input(encoder.encode(rows)), tmp_path / "s.pt2")
    runner = open_artifact(tmp_path / "s.pt2", trust=True)
    room = asked_by_snippet(row_of(runner, tmp_path / "s.pt2", "torch"), tmp_path, monkeypatch)
    said = Rows("asked", {"said": np.array(room["texts"], dtype=object)})
    np.testing.assert_array_equal(room["x"], encoder.encode(said).numpy())


# ---- a finished run --------------------------------------------------------------------------------------------------


def table(path: Path, count: int, seed: int) -> Path:
    given = columns(count, seed)
    lines = [",".join(given), *(",".join(map(str, cells)) for cells in zip(*given.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tutelage.Run:
    home = tmp_path_factory.mktemp("texts")
    teacher = {"model": "bag", "args": {"width": 16}, "train": {"epochs": 4, "batch_size": 64, "lr": 0.03}}
    recipe = {
        "name": "texts", "seeds": [0], "student": {"model": "bag", "args": {"width": 2, "depth": 0}},
        "data": {"source": "rows", "path": str(table(home / "x.csv", 500, 0)), "label": "kind",
                 "inputs": {"x": {"text": "said", "tokens": {"vocabulary": 120, "length": 10}}}},
        "teacher": teacher, "train": {"epochs": 1, "batch_size": 64, "lr": 0.01},
        "report": {"bootstrap": 100, "latency": False},
    }  # fmt: skip
    return run_recipe(from_mapping(recipe, ()), home / "run", quiet=True)


def test_new_rows_are_judged_with_the_students_own_encoding(done: tutelage.Run, tmp_path: Path) -> None:
    found = evaluate_run(f"{done.folder}", "rows", path=table(tmp_path / "new.csv", 90, 5))
    assert (found.examples, found.data) == (90, "new (all)")
    net = load_student(done.folder / "students/distilled/seed-0")
    facts = json.loads((done.folder / "students/distilled/seed-0/student.json").read_text())
    told = Columns(Facts(tuple(facts["classes"]), (10,), encoding=facts["encoding"]))
    given = columns(90, 5)
    with torch.no_grad():
        best = net(torch.from_numpy(told.read([{"said": text} for text in given["said"]], 2**20))).argmax(-1)
    right = np.mean([facts["classes"][one] == kind for one, kind in zip(best.tolist(), given["kind"], strict=True)])
    assert found.metrics["accuracy"].value == pytest.approx(right)


def test_the_runs_own_rows_keep_their_parts(done: tutelage.Run, tmp_path: Path) -> None:
    own = done.folder.parent / "x.csv"
    row = next(one for one in done.report["models"] if one["name"] == "distilled")
    test = evaluate_run(f"{done.folder}:distilled", "rows", path=own)
    assert test.examples == done.report["data"]["totals"]["test"]
    assert test.metrics["accuracy"].value == pytest.approx(row["metrics"]["accuracy"]["value"])
    assert evaluate_run(str(done.folder), "rows", path=own, part="all").examples == 500
    with pytest.raises(InputError, match="no part `val`"):
        evaluate_run(str(done.folder), "rows", path=table(tmp_path / "new.csv", 20, 5), part="val")
    with pytest.raises(InputError, match="needs a path"):
        evaluate_run(str(done.folder), "rows")
    (tmp_path / "bad.csv").write_text("text,kind\nhello,net\nbye,math\n")
    with pytest.raises(InputError, match="no column `said`"):
        evaluate_run(str(done.folder), "rows", path=tmp_path / "bad.csv")


def test_a_named_set_is_read_with_its_own_label(
    done: tutelage.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = columns(60, 7)
    rows = Rows("other", {"said": np.array(given["said"], dtype=object), "sort": np.array(given["kind"], dtype=object)})
    own = Set("other", "", "", "", 0, lambda folder, tell: None, lambda folder: rows, "sort", {})
    monkeypatch.setitem(SETS, "other", own)
    found = evaluate_run(str(done.folder), "other", path=tmp_path)
    assert (found.examples, found.data) == (60, "other (all)")


def test_rows_without_a_label_are_told_of(done: tutelage.Run, tmp_path: Path) -> None:
    path = table(tmp_path / "new.csv", 40, 5)
    path.write_text(re.sub(r"(?m)^(net|game),", ",", path.read_text(), count=3))
    found = evaluate_run(str(done.folder), "rows", path=path)
    assert found.examples == 37
    assert found.notices[0].startswith("3 of 40 rows have no `kind`")


def test_what_a_student_of_texts_forgot_is_shown_as_text(done: tutelage.Run) -> None:
    shown = done.report["pictures"]
    assert shown
    assert all(set(one) == {"true", "said", "text"} and one["true"] != one["said"] for one in shown)
    assert any(word in shown[0]["text"] for word in WORDS[shown[0]["true"]].split())
    page = (done.folder / "report.html").read_text()
    assert f"<code>{shown[0]['text']}</code>" in page


def test_texts_are_short_escaped_and_rather_plain_than_put_together(splits: Splits) -> None:
    test = splits.test
    ids = test.ids[:4].tolist()
    wrong = np.eye(3)[(test.targets.numpy() + 1) % 3]
    for view in ("x", "words"):
        found = forgotten_pictures(test.reading(view), ids, {"d": [wrong]})
        place = int(test.origins[0])
        assert found[0]["text"] == columns()["said"][place], view  # with its capitals: from `raw`
    pairs = forgotten_pictures(test.reading("ids"), ids, {"d": [wrong]})
    assert pairs[0]["text"] == columns()["bought"][int(test.origins[0])]
    report = {"headline": "d", "pictures": [{"true": "a", "said": "b", "text": "<script>&"}]}
    assert "&lt;script&gt;&amp;" in str(_forgotten(report, 1))
    assert forgotten_pictures(test.reading("t"), ids, {"d": [wrong]}) == []
    assert forgotten_pictures(test.reading("x"), ids, {}) == []


def test_the_demo_says_what_else_takes_texts(done: tutelage.Run) -> None:
    with pytest.raises(InputError, match=r"reads none(.|\n)*said(.|\n)*tutelage serve"):
        prepare(done.folder)


def test_lines_with_us_load_a_student_and_its_encoder(done: tutelage.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(done.folder)
    facts = json.loads((done.folder / "students/distilled/seed-0/student.json").read_text())
    code, room = (
        artifacts.student_of_columns("students/distilled/seed-0", brief_of(facts["encoding"])),
        dict[str, Any](),
    )
    exec(compile(code, "snippet", "exec"), room)  # noqa: S102  our own lines
    assert room["logits"].shape == (1, 3)
    assert room["x"].dtype == torch.int64
    said = card({**done.report, "load_snippet": code})
    assert "with torch and safetensors alone" not in said
    assert "Inputs are numbers in [0, 1]" not in said


def test_a_student_of_texts_gets_smaller_and_is_loaded_again(done: tutelage.Run, tmp_path: Path) -> None:
    how = Compressing(Shrink(prune=Prune(0.5, kind="unstructured")), tmp_path / "small")
    found = compress_run(f"{done.folder}:distilled", how)
    assert [one.name for one in found.states] == ["before", "after"]
    net, told = load_student(tmp_path / "small"), json.loads((tmp_path / "small" / "student.json").read_text())
    config = {key: value for key, value in told.items() if key not in ("sha256", "kept_epoch", "curve")}
    facts = facts_for(config, "small")
    assert facts.smaller == told["smaller"] != []
    write_plain(net, facts, torch.ones(1), tmp_path / "shipped.safetensors")
    x = facts.example(3)
    with torch.no_grad():
        np.testing.assert_allclose(open_plain(tmp_path / "shipped.safetensors")(x), net(torch.from_numpy(x)), atol=1e-6)
    weight = net.get_submodule("net.head").weight
    assert (weight == 0).sum() >= weight.numel() // 2
    assert net(torch.ones(2, 10, dtype=torch.int64)).shape == (2, 3)
