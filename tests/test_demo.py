"""The demo without a browser: what is loaded of a run, what the server says, and what is vendored."""

from __future__ import annotations

import gzip
import importlib.util
import json
import shutil
import urllib.request
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import tutelage
from command_line import call
from demo_parts import ask, finished_run, png, served
from tutelage import lang
from tutelage.data import as_model_input, load
from tutelage.demo import Exhibit, Server, exhibit, prepare
from tutelage.demo.picture import MOST_BYTES, as_pixels
from tutelage.errors import DamagedError, DataError, GateError, InputError
from tutelage.files import read_json, sha256, write_json
from tutelage.run.evalfiles import eval_files, read_eval_file
from tutelage.run.students import load_student, student_file

pytest.importorskip("onnx", reason="needs onnx, which writes the student for the browser")
runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, which checks the student's file")
ROOT = Path(__file__).resolve().parents[1]
VENDOR = Path(tutelage.__file__).parent / "demo" / "vendor"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("demo") / "run")


@pytest.fixture(scope="module")
def shown(run: Path) -> Exhibit:
    return prepare(run, seed=1)


@pytest.fixture(scope="module")
def server(shown: Exhibit) -> Iterator[Server]:
    with served(shown) as found:
        yield found


# ---- what is loaded --------------------------------------------------------------------------------------------------


def test_files_and_images_are_those_of_the_run(run: Path, shown: Exhibit) -> None:
    assert (shown.run, shown.arm, shown.seed, shown.shape) == ("tiny", "distilled", 1, (1, 8, 8))
    assert shown.classes == tuple("0123456789")
    assert list(shown.files) == ["onnx", "onnx-int8"]
    student = load_student(run / "students" / "distilled" / "seed-1")
    with torch.no_grad():
        expected = student(torch.from_numpy(shown.images)).numpy()
    session = runtime.InferenceSession(shown.files["onnx"])
    assert np.abs(session.run(None, {"input": shown.images})[0] - expected).max() < 1e-4
    assert [one.student for one in shown.picked] == expected.argmax(-1).tolist()


def test_the_teacher_answers_as_it_did_in_the_run(run: Path, shown: Exhibit) -> None:
    test = load("digits").test
    saved = read_eval_file(eval_files(run, "teacher", None)["test"], 10)
    rows = {inputs.tobytes(): row for row, inputs in enumerate(as_model_input(test.inputs.clone()).numpy())}
    by_id = dict(zip(saved.ids.tolist(), saved.logits, strict=True))
    for image, one in zip(shown.images, shown.picked, strict=True):
        row = rows[image.tobytes()]
        said = shown.teacher.ask(image)
        assert np.abs(said.logits - by_id[int(test.ids[row])]).max() < 1e-3
        assert said.milliseconds > 0
        assert said.calls >= 3
        assert (one.true, one.teacher) == (int(test.targets[row]), int(said.logits.argmax()))


def test_images_on_which_the_two_differ_come_first(shown: Exhibit) -> None:
    differ = [one.teacher != one.student for one in shown.picked]
    assert differ == sorted(differ, reverse=True)
    assert 0 < sum(differ) <= 10
    assert len(differ) - sum(differ) == 10
    assert not shown.light_ground


def test_several_teachers_answer_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exhibit, "_written", lambda *args: ({"onnx": b""}, ()))  # which takes its time
    small = {"model": "mlp", "args": {"width": 8, "depth": 1}, "train": {"epochs": 1, "batch_size": 64}}
    teachers = {"first": small, "second": {**small, "seed": 5}}
    run = finished_run(
        tmp_path / "run", teacher=None, teachers=teachers, combine={"how": "mean_probabilities"},
        student={"model": "mlp", "args": {"width": 4, "depth": 1}}, seeds=[0],
    )  # fmt: skip
    found = prepare(run)
    saved = read_eval_file(eval_files(run, "teacher", None)["test"], 10)
    test = load("digits").test
    row = next(row for row, one in enumerate(as_model_input(test.inputs.clone()).numpy())
               if one.tobytes() == found.images[0].tobytes())  # fmt: skip
    place = saved.ids.tolist().index(int(test.ids[row]))
    shares = torch.from_numpy(np.stack([found.teacher.ask(found.images[0]).logits, saved.logits[place]])).softmax(-1)
    assert float((shares[0] - shares[1]).abs().max()) < 1e-4


def test_a_file_in_8_bits_that_answers_otherwise_is_left_out(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, how: str, **settings: object) -> None:
        if how == "onnx-int8":
            raise GateError("student.onnx does not answer as its model does")
        args[2].write_bytes(b"onnx")  # type: ignore[attr-defined]

    monkeypatch.setattr(exhibit, "export_model", refuse)
    found = prepare(run)
    assert found.seed == 3
    assert found.files == {"onnx": b"onnx"}
    assert found.notices == ("not shown in 8 bits: student.onnx does not answer as its model does",)


def test_an_arm_that_was_exported_is_shown_from_its_own_file(run: Path, shown: Exhibit, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    report = read_json(copy / "report.json")
    row = next(one for one in report["models"] if one["name"] == "distilled")
    for how in ("onnx-int8", "torch"):
        report["models"].append({**row, "name": f"distilled.{how}", "of": "distilled", "compression": how})
        for each in row["runs"]:
            file = student_file(copy, "distilled", each["seed"], how)
            file.write_bytes(shown.files["onnx-int8"])
            facts = read_json(file.with_name("student.json"))
            write_json(file.with_name("student.json"), {**facts, f"sha256.{how}": sha256(file)})
            answers = eval_files(copy, "distilled", each["seed"])["test"]
            shutil.copy(answers, eval_files(copy, f"distilled.{how}", each["seed"])["test"])
    write_json(copy / "report.json", report)
    assert prepare(f"{copy}:distilled.onnx-int8", seed=1).files == {"onnx-int8": shown.files["onnx-int8"]}
    with pytest.raises(InputError, match="is a file that no browser reads"):
        prepare(f"{copy}:distilled.torch")


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_run_without_images_is_refused(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 5)).astype(np.float32)
    np.savez(tmp_path / "table.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
    small = {"model": "mlp", "args": {"width": 4, "depth": 1}}
    run = finished_run(
        tmp_path / "run", data={"source": "arrays", "path": str(tmp_path / "table.npz")}, student=small,
        teacher={**small, "train": {"epochs": 1, "batch_size": 64}}, seeds=[0],
    )  # fmt: skip
    outcome = call("demo", str(run), "--no-browser")
    assert outcome.code == 2
    assert "the demo needs a run on images\n  given     inputs of shape (5,)" in outcome.err


def test_an_unknown_seed_run_and_port_are_refused(run: Path, shown: Exhibit) -> None:
    with pytest.raises(InputError, match=r"no student of seed 2\n.*one of 3, 1"):
        prepare(run, seed=2)
    with pytest.raises(InputError, match="no finished run"):
        prepare(run / "students")
    with Server(shown) as first, pytest.raises(InputError, match=f"port {first.server_port} cannot be had"):
        Server(shown, port=first.server_port)
    for words in (("--port", "70000"), ("--threads", "0")):
        assert call("demo", str(run), *words).code == 2


def test_what_is_not_as_the_run_left_it_is_refused(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    manifest = read_json(copy / "manifest.json")
    write_json(copy / "manifest.json", {**manifest, "data": {**manifest["data"], "fingerprint": "0" * 64}})
    with pytest.raises(DataError, match="the data has changed since the run"):
        prepare(copy)
    write_json(copy / "manifest.json", manifest)
    (copy / "config.yaml").write_text("# made in Python\n")
    with pytest.raises(InputError, match="was made in Python"):
        prepare(copy)


def test_an_altered_teacher_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exhibit, "_written", lambda *args: ({"onnx": b""}, ()))
    copy = shutil.copytree(run, tmp_path / "run")
    file = copy / "teacher" / "teacher.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedError, match="missing or was altered"):
        prepare(copy)


# ---- the server ------------------------------------------------------------------------------------------------------


def test_every_file_has_its_type_and_the_policy(server: Server) -> None:
    kinds = {
        "/": "text/html", "/page.css": "text/css", "/page.mjs": "text/javascript", "/canvas.mjs": "text/javascript",
        "/facts.json": "application/json", "/icon.svg": "image/svg+xml", "/tests": "application/octet-stream",
        "/student/onnx": "application/octet-stream", "/student/onnx-int8": "application/octet-stream",
        "/vendor/ort.wasm.min.mjs": "text/javascript", "/vendor/ort-wasm-simd-threaded.mjs": "text/javascript",
        "/vendor/ort-wasm-simd-threaded.wasm": "application/wasm",
    }  # fmt: skip
    assert set(kinds) == set(server.shown)
    for path, kind in kinds.items():
        status, headers, body = ask(server, "GET", path)
        assert (status, headers["content-type"]) == (200, kind)
        assert len(body) == int(headers["content-length"]) > 0
        policy = dict(one.split(" ", 1) for one in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'self'"
        assert policy["script-src"] == "'self' 'wasm-unsafe-eval'"
        assert headers["x-content-type-options"] == "nosniff"
    assert np.array_equal(np.frombuffer(ask(server, "GET", "/tests")[2], "<f4"), server.exhibit.images.ravel())


def test_the_binary_is_sent_compressed_to_those_who_can_read_it(server: Server) -> None:
    path = "/vendor/ort-wasm-simd-threaded.wasm"
    _, headers, packed = ask(server, "GET", path, Accept_Encoding="gzip, br")
    assert headers["content-encoding"] == "gzip"
    _, headers, plain = ask(server, "GET", path, Accept_Encoding="identity")
    assert "content-encoding" not in headers
    assert gzip.decompress(packed) == plain
    assert plain.startswith(b"\0asm")


def test_the_teacher_is_asked_about_the_pixels_that_were_sent(server: Server) -> None:
    image = server.exhibit.images[0]
    status, _, body = ask(server, "POST", "/teacher", image.astype("<f4").tobytes())
    found = json.loads(body)
    assert status == 200
    assert found["logits"] == server.exhibit.teacher.ask(image).logits.tolist()
    assert found["ms"] > 0
    other = json.loads(ask(server, "POST", "/teacher", (1 - image).astype("<f4").tobytes())[2])
    assert other["logits"] != found["logits"]


def test_a_fault_of_ours_is_told_on_the_page(shown: Exhibit, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("tutelage.demo.server.as_pixels", fail)
    with served(shown) as server:
        status, _, body = ask(server, "POST", "/image", b"x")
    assert (status, json.loads(body)) == (500, {"error": "a fault of tutelage itself: ZeroDivisionError: by zero"})


@pytest.mark.parametrize(
    ("value", "size", "why"),
    [(0.5, 63, "not the pixels of one image"), (1.5, 64, "between 0 and 1"), (-0.1, 64, "between 0 and 1"),
     (float("nan"), 64, "between 0 and 1")],
)  # fmt: skip
def test_what_is_no_image_is_refused_in_words(server: Server, value: float, size: int, why: str) -> None:
    status, headers, body = ask(server, "POST", "/teacher", np.full(size, value, "<f4").tobytes())
    assert (status, headers["content-type"]) == (422, "application/json")
    assert why in json.loads(body)["error"]


def test_only_the_page_itself_may_ask(server: Server) -> None:
    body = server.exhibit.images[0].astype("<f4").tobytes()
    assert ask(server, "GET", "/", Host_="evil.example")[0] == 421
    assert ask(server, "POST", "/teacher", body, Host_=f"evil.example:{server.server_port}")[0] == 421
    assert ask(server, "GET", "/", Host_=f"localhost:{server.server_port}")[0] == 200
    # What a form of another site may send without asking.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert ask(server, "POST", "/teacher", body, Content_Type=kind)[0] == 404
    assert ask(server, "OPTIONS", "/teacher")[0] == 501
    assert ask(server, "POST", "/image", b"", Content_Length=str(MOST_BYTES + 1))[0] == 413
    for path in ("/../pyproject.toml", "/vendor/README.md", "/page.py", "/student/safetensors"):
        assert ask(server, "GET", path)[0] == 404


def test_what_goes_wrong_is_said_in_the_language_of_the_page(shown: Exhibit) -> None:
    with lang.speaking("zh"), served(shown) as chinese:
        page = ask(chinese, "GET", "/")[2].decode()
        wrong = json.loads(ask(chinese, "POST", "/image", b"no image")[2])["error"]
    assert '<html lang="zh-CN">' in page
    assert "学生模型" in page
    assert lang.translate("given", "zh") in wrong


# ---- uploads ---------------------------------------------------------------------------------------------------------


def test_an_upload_becomes_what_a_folder_would_give(server: Server, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    shapes = [(20, 31), (9, 9), (12, 40, 3), (30, 30, 4)]
    files = [png(generator.integers(0, 256, shape).astype(np.uint8)) for shape in shapes]
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
    for number in range(12):
        (tmp_path / "ab"[number % 2] / f"{number}.png").write_bytes(
            files[number] if number < 4 else png(np.full((8, 8), number, np.uint8))
        )
    splits = load("folder", path=tmp_path, image_size=8, channels=1, allow_overlap=True)
    known = {one.tobytes() for part in (splits.train, splits.val, splits.test)
             for one in as_model_input(part.inputs.clone()).numpy()}  # fmt: skip
    for file in files:
        status, _, body = ask(server, "POST", "/image", file)
        assert status == 200
        assert np.frombuffer(body, "<f4").astype(np.float32).tobytes() in known


def test_a_picture_is_coloured_and_never_stretched() -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    colours = as_pixels(png(grey), (3, 6, 8))
    assert colours.shape == (3, 6, 8)
    assert np.array_equal(colours, np.stack([grey] * 3).astype(np.float32) / np.float32(255))
    with pytest.raises(DataError, match=r"another size(.|\n)*given     8×6\n  expected  6×8"):
        as_pixels(png(grey), (1, 8, 6))


@pytest.mark.parametrize(
    "data",
    [b"", b"GIF89a", b"<svg/>", png(np.zeros((9, 9), np.uint8))[:-20]],
    ids=["nothing", "head", "drawing", "half"],
)
def test_what_is_no_picture_is_refused_without_a_path(data: bytes) -> None:
    with pytest.raises(DataError, match="this file cannot be used as an image") as caught:
        as_pixels(data, (1, 8, 8))
    assert caught.value.problem.given
    assert "/" not in caught.value.problem.given


# ---- what is vendored ------------------------------------------------------------------------------------------------


def tool() -> ModuleType:
    place = ROOT / "tools" / "vendor_onnxruntime_web.py"
    if not place.is_file():
        pytest.skip("needs the tool that refreshes the files, which is in the repository only")
    spec = importlib.util.spec_from_file_location("vendor", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_vendored_files_are_those_of_their_table(tmp_path: Path) -> None:
    check = tool().check
    assert check(VENDOR) == []
    copy = shutil.copytree(VENDOR, tmp_path / "vendor")
    script = copy / "ort.wasm.min.mjs"
    script.write_bytes(script.read_bytes() + b"\n")
    assert check(copy) == ["ort.wasm.min.mjs is not the file that the README lists"]


def test_vendored_files_are_small_licensed_and_without_a_time() -> None:
    assert sum(path.stat().st_size for path in VENDOR.iterdir()) < 5_000_000
    assert (VENDOR / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n\nCopyright (c) Microsoft")
    assert (VENDOR / "ort-wasm-simd-threaded.wasm.gz").read_bytes()[4:8] == bytes(4)  # when it was packed
    text = (VENDOR / "ort.wasm.min.mjs").read_text(encoding="utf-8")
    version = (VENDOR / "README.md").read_text(encoding="utf-8").split()[2]
    assert f"ONNX Runtime Web v{version}" in text


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_serves_until_it_is_stopped(shown: Exhibit, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[str] = []

    def look(address: str) -> bool:
        with urllib.request.urlopen(address, timeout=20) as answer:  # noqa: S310  our own page
            pages.append(answer.read().decode())
        raise KeyboardInterrupt

    closed: list[bool] = []
    monkeypatch.setattr(webbrowser, "open", look)
    monkeypatch.setattr("tutelage.demo.prepare", lambda *args, **settings: shown)
    monkeypatch.setattr(type(shown.teacher), "close", lambda self: closed.append(True))
    outcome = call("demo", "runs/tiny")
    assert outcome.code == 0
    assert "open http://127.0.0.1:" in outcome.out
    assert "the demo is over" in outcome.err
    assert "<title>tiny – try it</title>" in pages[0]
    assert closed == [True]
