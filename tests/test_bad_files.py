"""Files that are not what they seem: weights of a teacher, and folders of runs that were torn, altered or taken."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import save_file

import tutelage
from command_line import Outcome, call
from tutelage.models import Classifier, ModelSpec, build

RECIPE = """\
name: tiny
seeds: [0]
data: {source: digits, limit: 64}
teacher:
  model: mlp
  args: {width: 8, depth: 1}
  train: {epochs: 1, batch_size: 32, lr: 0.01}
student: {model: mlp, args: {width: 4, depth: 1}}
train: {epochs: 1, batch_size: 32, lr: 0.01, checkpoint_seconds: 0}
report: {bootstrap: 100, latency: false}
"""
LOADED = RECIPE.replace("train: {epochs: 1, batch_size: 32, lr: 0.01}\n", "weights: teacher.safetensors\n")
RUN = ["run", "recipe.yaml", "--out", "out", "--quiet"]


def refused(outcome: Outcome, code: int, *says: str) -> None:
    """The message is one that a person can act on."""
    assert outcome.code == code, outcome.err
    assert not outcome.out
    assert "Traceback" not in outcome.err
    assert outcome.err.startswith("error: ")
    assert len(outcome.err.splitlines()) <= 8, outcome.err
    for said in says:
        assert said in outcome.err


def process(*words: str) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    path = os.pathsep.join([str(Path(tutelage.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-W", "error", *words], env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a complete run; its cache serves all tests here."""
    home = tmp_path_factory.mktemp("finished")
    (home / "recipe.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTELAGE_CACHE", str(home / "cache"))
        assert call("run", str(home / "recipe.yaml"), "--out", str(home / "out"), "--quiet").code == 0
        yield home / "out"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("TUTELAGE_DEBUG", raising=False)
    Path("recipe.yaml").write_text(RECIPE)


# ---- weights of the teacher ------------------------------------------------------------------------------------------


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch canary",)


def net(side: int = 8, **changes: object) -> Classifier:
    spec = ModelSpec("mlp", {"width": 8, "depth": 1, **changes})
    return build(spec, input_shape=(1, side, side), classes=10, mean=[0.3], std=[0.3])


def cut(path: Path) -> None:
    save_file(net().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-100])


def wide_head(path: Path) -> None:
    save_file({k: v.new_zeros(1000, *v.shape[1:]) if "head" in k else v for k, v in net().state_dict().items()}, path)


def not_numbers(path: Path) -> None:
    save_file({k: v * float("nan") for k, v in net().state_dict().items()}, path)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
# what is written as teacher.safetensors, the exit code, what the message says
WEIGHTS: dict[str, tuple[Callable[[Path], object], int, tuple[str, ...]]] = {
    "51 missing": (lambda p: None, 3, ("there is no file teacher.safetensors", "a .safetensors file")),
    "51 folder": (lambda p: p.mkdir(), 3, ("teacher.safetensors is a folder", "a file of weights")),
    "52 LFS pointer": (lambda p: p.write_text(POINTER), 5, ("a 63-byte git-LFS pointer", "hint: run `git lfs pull`")),
    "52 web page": (lambda p: p.write_text("<!DOCTYPE html><html>"), 5, ("is a web page", "download it again")),
    "53 cut off": (cut, 5, ("its header promises", "an incomplete copy?", "compare its size with the original")),
    "54 absurd header": (lambda p: p.write_bytes(struct.pack("<Q", 9 << 60) + b"{}"), 5, ("its header would be",)),
    "55 pickle": (lambda p: p.write_bytes(pickle.dumps(Payload(), 2)), 3, ("would run code", "nothing was run")),
    "55 torch file": (lambda p: torch.save({"x": Payload()}, p), 3, ("would run code", "nothing was run")),
    "56 whole module": (lambda p: torch.save(torch.nn.Linear(2, 2), p), 3, ("a whole model with its code", "_dict()")),
    "58 other names": (lambda p: save_file({"a": torch.zeros(2)}, p), 3, ("6 of 6 names missing, 1 unexpected",)),
    "58 other shapes": (lambda p: save_file(net(width=9).state_dict(), p), 3, ("shapes differ", "name the model")),
    "59 other classes": (wide_head, 3, ("the weights have 1000 classes, the data has 10",)),
    "65 NaN": (not_numbers, 5, ("NaN or infinity in 6 of 6 tensors", "use an earlier checkpoint")),
    "66 other size of input": (lambda p: save_file(net(9).state_dict(), p), 3, ("(8, 81)", "(8, 64)")),
    "nothing in it": (lambda p: p.touch(), 5, ("teacher.safetensors is empty",)),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_wrong_weights(name: str) -> None:
    make, code, says = WEIGHTS[name]
    make(Path("teacher.safetensors"))
    Path("recipe.yaml").write_text(LOADED)
    refused(call(*RUN), code, *says)
    assert not Path("canary").exists()
    # It was held for a moment, but no run stands in the way of the command that mends this.
    assert [entry.name for entry in Path("out").iterdir()] == [".lock"]


def test_weights_with_a_wrapper_s_prefix_are_taken_with_a_notice() -> None:
    torch.save({f"module.{name}": value for name, value in net().state_dict().items()}, "teacher.safetensors")
    Path("recipe.yaml").write_text(LOADED)
    outcome = call(*RUN[:-1])
    assert outcome.code == 0
    assert "teacher: took the prefix `module.` off the names" in outcome.err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["run", "recipe.yaml", "--set", "train.lr=fast"], 2, "expected a number > 0, got 'fast'"),
        (["run", "recipe.yaml", "--set", "data={source: folder, path: none}"], 3, "none does not exist"),
        (["run", "loaded.yaml"], 5, "is a web page"),
    ],
)
def test_a_real_process_shows_no_traceback(words: list[str], code: int, says: str) -> None:
    Path("loaded.yaml").write_text(LOADED)
    Path("teacher.safetensors").write_text("<html>")
    with process("-m", "tutelage", *words, "--out", "out") as running:
        out, err = running.communicate()
    refused(Outcome(running.returncode, out, err), code, says)


# ---- folders of runs -------------------------------------------------------------------------------------------------


def rewrite(name: str, **changes: object) -> None:
    path = Path("out", name)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def unfinished() -> list[Path]:
    """As if it had been killed before the students were saved; its checkpoints."""
    rewrite("manifest.json", outcome="running")
    shutil.rmtree("out/students")
    found = sorted(Path("out/checkpoints/seed-0").glob("step-*"))
    assert len(found) == 2
    return found


def tear(*checkpoints: Path) -> None:
    for folder in checkpoints:
        (folder / "model.safetensors").write_bytes(b"torn")


def hand_edit() -> None:
    path = Path("out/config.yaml")
    path.write_text(path.read_text().replace("epochs: 1", "epochs: 4"))


HINT = "choose another folder with --out, or add --overwrite"
# how the folder is spoilt, more flags, the exit code, what the message says
FOLDERS: dict[str, tuple[Callable[[], object], list[str], int, tuple[str, ...]]] = {
    "75 other recipe": (lambda: None, ["--seed", "0,1"], 2, ("a run of another recipe", "seeds: [0] → [0, 1]", HINT)),
    "76 other lr": (unfinished, ["--set", "train.lr=0.1"], 2, ("1 difference\n", "train.lr: 0.01 → 0.1\n", HINT)),
    "80 hand-edited": (hand_edit, [], 2, ("2 differences", "train.epochs: 4 → 1", HINT)),
    "80 no recipe any more": (lambda: Path("out/config.yaml").write_text("- a\n"), [], 2, ("a recipe is a mapping",)),
    "config missing": (lambda: Path("out/config.yaml").unlink(), [], 5, ("config.yaml is missing", "--overwrite")),
    "manifest torn": (lambda: Path("out/manifest.json").write_text('{"out'), [], 5, ("cannot read", "manifest.json")),
    "manifest emptied": (lambda: Path("out/manifest.json").write_text("{}"), [], 5, ("is not what a run wrote",)),
    "manifest altered": (lambda: rewrite("manifest.json", data=3), [], 5, ("is not what a run wrote", "--overwrite")),
    "report torn": (lambda: Path("out/report.json").write_text("{"), [], 5, ("cannot read", "report.json")),
    "79 all torn": (lambda: tear(*unfinished()), [], 5, ("every checkpoint in", "seed-0 is damaged", "hint: remove")),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_not_what_it_was(name: str, finished: Path) -> None:
    spoil, flags, code, says = FOLDERS[name]
    shutil.copytree(finished, "out")
    spoil()
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.suffix in (".safetensors", ".yaml")}
    refused(call(*RUN, *flags), code, *says)
    assert {path: path.read_bytes() for path in before if path.exists()} == before


def test_a_finished_run_is_left_as_it_is(finished: Path) -> None:
    shutil.copytree(finished, "out")
    before = {
        path: path.stat().st_mtime_ns for path in Path("out").rglob("*") if path.suffix in (".safetensors", ".html")
    }
    outcome = call(*RUN[:-1])
    assert outcome.code == 0
    assert "already complete; to run it again, choose another --out or add --overwrite (out)" in outcome.err
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_torn_checkpoint_is_passed_over_with_a_notice(finished: Path) -> None:
    shutil.copytree(finished, "out")
    tear(unfinished()[-1])
    outcome = call(*RUN[:-1])
    assert outcome.code == 0
    assert "checkpoint step-0000002 is damaged (model.safetensors has 4 bytes, not " in outcome.err
    assert "seed-0: continuing at step 1/2" in outcome.err
    name = Path("students/distilled/seed-0/student.safetensors")
    assert ("out" / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize("left", [".config.yaml.4711.tmp", ".manifest.json.4711.tmp"])
def test_a_run_killed_at_its_first_file_does_not_stand_in_the_way(finished: Path, left: str) -> None:
    Path("out").mkdir()
    (Path("out") / left).write_text("half")
    assert call(*RUN).code == 0
    assert not (Path("out") / left).exists()


def test_a_folder_that_another_process_just_fills_is_in_use(finished: Path) -> None:
    with process("-c", HOLDER) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        Path("out/teacher").mkdir()
        try:
            refused(call(*RUN), 6, f"is in use by process {holder.pid} on ", "wait for it to end")
        finally:
            holder.kill()
    refused(call(*RUN), 2, "out is not empty and holds no run", "given     teacher")


def test_a_killed_removal_leaves_a_run_that_begins_anew(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(finished, "out")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", Mock(side_effect=KeyboardInterrupt))
        assert call(*RUN, "--overwrite").code == 130
    left = {path.name for path in Path("out").iterdir()}
    assert "manifest.json" not in left
    assert {"config.yaml", "teacher", "students"} <= left
    assert call(*RUN).code == 0


def test_another_environment_is_said(finished: Path) -> None:
    shutil.copytree(finished, "out")
    environment = json.loads(Path("out/manifest.json").read_text())["environment"]
    rewrite("manifest.json", environment=environment | {"torch": "1.0"})
    outcome = call(*RUN[:-1])
    assert outcome.code == 0
    assert f"torch: 1.0 → {torch.__version__}): bit-identity is not promised" in outcome.err


def test_a_folder_of_something_else_is_left_alone() -> None:
    Path("out").mkdir()
    Path("out/thesis.tex").touch()
    for flags in ([], ["--overwrite"]):
        refused(call(*RUN, *flags), 2, "out is not empty and holds no run", "given     thesis.tex", "--out")
    assert [path.name for path in Path("out").iterdir()] == ["thesis.tex"]


HOLDER = """
import pathlib, time
from tutelage.files import hold
with hold(pathlib.Path("out")):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_in_use_names_the_process(finished: Path) -> None:
    shutil.copytree(finished, "out")
    with process("-c", HOLDER) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            refused(call(*RUN), 6, f"is in use by process {holder.pid} on ", "wait for it to end")
        finally:
            holder.kill()
    assert call(*RUN).code == 0


# ---- while it runs ---------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_arm_and_step_and_keeps_the_batch() -> None:
    refused(call(*RUN, "--set", "train.lr=1e20"), 1, "of arm `scratch` is not finite (step 1)", "lower train.lr")
    assert Path("out/debug/seed-0-step-1.safetensors").is_file()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_same_command_completes(sent: signal.Signals, code: int) -> None:
    words = [*RUN, "--set", "train.epochs=300", "--set", "train.checkpoint_seconds=60"]
    with process("-m", "tutelage", *words) as running:
        metrics = Path("out/metrics.jsonl")
        while running.poll() is None and not metrics.is_file():
            time.sleep(0.02)
        running.send_signal(sent)
        out, err = running.communicate()
    hint = "hint: the same command continues: tutelage run recipe.yaml --out out"
    refused(Outcome(running.returncode, out, err), code, "stopped; everything so far is saved", hint)
    assert not Path("out/students").exists()
    assert call(*words).code == 0
    assert "seed-0: continuing at step " in Path("out/log.txt").read_text()


def test_a_fault_of_ours_is_kept_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tutelage.run.run_recipe", Mock(side_effect=ZeroDivisionError("of our own\nmaking")))
    refused(call(*RUN), 101, "a fault of tutelage itself: ZeroDivisionError: of our own\n", "please open an issue")
    (kept,) = tmp_path.glob("tutelage-fault-*.txt")
    assert "\ntutelage run recipe.yaml --out out --quiet\n\nTraceback" in kept.read_text()
    monkeypatch.setenv("TUTELAGE_DEBUG", "1")
    code, _, err = call(*RUN)
    assert (code, err.startswith("Traceback")) == (101, True)


def test_debugging_shows_where_a_message_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_DEBUG", "1")
    code, _, err = call(*RUN, "--set", "train.lr=fast")
    assert (code, err.startswith("Traceback"), "\nerror: `train.lr`: expected" in err) == (2, True, True)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device", "/runs/log.txt"), "No space left on device (/runs/log.txt)"),
        (PermissionError(13, "Permission denied", "/runs"), "Permission denied (/runs)"),
        (MemoryError(), "the memory is full"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "CUDA out of memory. Tried"),
    ],
)  # fmt: skip
def test_what_the_machine_refuses(error: Exception, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.run.run_recipe", Mock(side_effect=error))
    refused(call(*RUN), 1, says, "hint: ")


# ---- what is found late in a run -------------------------------------------------------------------------------------

STUDENT = Path("out/students/scratch/seed-0")
ALTERED: dict[str, tuple[Callable[[], object], list[str], int]] = {
    "config.yaml in UTF-16": (lambda: Path("out/config.yaml").write_bytes("name: x".encode("utf-16")), [], 5),
    "sums of a checkpoint that are none": (
        lambda: [(p / "DONE").write_text('{"model.safetensors": 3}') for p in unfinished()], [], 5,
    ),
    "facts of a student are missing": (lambda: (reopened(), (STUDENT / "student.json").write_text("{}")), [], 5),
    "a student is missing": (lambda: (reopened(), (STUDENT / "student.safetensors").unlink()), [], 5),
    "a report without its numbers": (lambda: Path("out/report.json").write_text("{}"), [], 5),
    "a key that lies elsewhere": (lambda: shutil.rmtree("out"), ["--set", "train.optimizer_args={lr: 3}"], 2),
}  # fmt: skip


def reopened() -> None:
    rewrite("manifest.json", outcome="running")


@pytest.mark.parametrize("name", ALTERED)
def test_what_was_altered_in_a_run_is_said(name: str, finished: Path) -> None:
    spoil, flags, code = ALTERED[name]
    shutil.copytree(finished, "out")
    spoil()
    refused(call(*RUN, *flags), code)


def test_a_student_that_cannot_be_built_is_told_before_a_teacher_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    assert call(*RUN, "--set", "student.args.widht=3").code == 2
    assert not Path("cache").exists()


def test_another_teacher_in_the_same_file_is_refused_where_a_run_continues() -> None:
    save_file(net().state_dict(), "teacher.safetensors")
    Path("recipe.yaml").write_text(LOADED)
    assert call(*RUN).code == 0
    unfinished()
    save_file({name: value + 1 for name, value in net().state_dict().items()}, "teacher.safetensors")
    refused(call(*RUN), 3)
