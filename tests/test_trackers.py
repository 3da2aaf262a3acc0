"""Trackers, with their real clients: what they keep, what a kill leaves, what a fault costs, and what they never do."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tracker_parts import (
    FACTS,
    HEADLINE,
    NAMES,
    PARTS,
    READ,
    curves,
    expected,
    made_up,
    mlflow_run,
    need,
    prepare,
    report,
    settings,
    wandb_records,
)
from tutelage.data import Batches, Examples, Views
from tutelage.distiller import Distiller
from tutelage.errors import InputError, MissingExtraError
from tutelage.losses import cross_entropy
from tutelage.objective import Objective
from tutelage.training import Arm, Cohort, Listener, PlainDevice, fit, learning_rate, make_optimizer
from tutelage.training.trackers import Trackers, check_trackers, open_trackers
from tutelage.training.trackers.protocol import flat, headline

# Its models of 3.17 use a loader that SQLAlchemy 2.1 wants gone.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # Neither what the person who runs the tests has set, nor what one test leaves for the next.
    for key in settings():
        monkeypatch.setenv(key, "")
        monkeypatch.delenv(key)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")  # for reading; that it is the default, a process shows


# ---- something to learn ----------------------------------------------------------------------------------------------


def cohort(seed: int) -> Cohort:
    arms = []
    for name in ("scratch", "small.distilled"):
        torch.manual_seed(seed)
        student = nn.Linear(5, 3)
        optimizer = make_optimizer("adamw", student.parameters(), lr=0.05)
        rate = learning_rate("cosine", optimizer, lr=0.05)
        arms.append(Arm(name, Distiller(student, None, Objective([cross_entropy])), optimizer, rate))
    return Cohort(f"seed-{seed}", seed, arms)


def train(seed: int, *listeners: Listener) -> Cohort:
    inputs = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    data = Examples.make(inputs, inputs[:, :3].argmax(-1), ["a", "b", "c"], "toy")
    learned = cohort(seed)

    def validate(model: nn.Module) -> dict[str, float]:
        return {"accuracy": float((model(data.inputs).argmax(-1) == data.targets).double().mean()), "odd": math.nan}

    batches = Batches(data, batch_size=8, views=Views(), seed=seed)
    fit(learned, batches, validate, PlainDevice(), epochs=3, listeners=listeners)
    return learned


# ---- what they keep --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_epoch_of_every_arm_and_seed_is_there_and_nothing_learns_differently(name: str, tmp_path: Path) -> None:
    need(name)
    told: list[str] = []
    with open_trackers([name], tmp_path, FACTS, recipe="name: toy", tell=told.append) as trackers:
        cohorts = [train(seed, trackers) for seed in (0, 1)]
    assert len(told) == 1, told
    assert told[0].startswith(f"tracker {name}: ")
    wanted = {}
    for one in cohorts:
        for arm in one.arms:
            assert len(arm.curve) == 3
            wanted |= expected(
                [{k: v for k, v in row.items() if k != "val_odd"} for row in arm.curve], arm.name, one.seed
            )
    assert curves(READ[name](tmp_path)) == wanted  # no `val_odd`: it never was a number
    plain = train(0)
    for tracked, alone in zip(cohorts[0].arms, plain.arms, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tracked.parameters, alone.parameters, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_what_a_run_came_to_is_kept_once_with_rows_that_were_missed(name: str, tmp_path: Path) -> None:
    need(name)
    prepare(name, tmp_path)
    curve = made_up(3)
    for _ in range(2):  # a run that was killed between its report and its end
        with open_trackers([name], tmp_path, FACTS, recipe="name: toy\nseeds: [0]") as trackers:
            trackers.rows("distilled", 0, curve[:1])
            final = report({"distilled": {"0": [row | {"val_odd": None} for row in curve]}})
            trackers.final(final, verdict="It keeps it all.", page=tmp_path / "report.html")
            assert trackers.names == [name]
    kept = READ[name](tmp_path)
    assert curves(kept) == expected(curve, "distilled", 0)
    page = str(tmp_path / "report.html")
    if name == "tensorboard":
        assert {key: kept[key] for key in HEADLINE} == {key: [(1, value)] for key, value in HEADLINE.items()}
        texts = {key: points[0][1] for key, points in kept.items() if key.endswith("/text_summary")}
        assert texts["verdict/text_summary"] == "It keeps it all."
        assert texts["report/text_summary"] == page
        assert "seeds: [0]" in texts["recipe/text_summary"]
        assert "| data.counts.train | 40 |" in texts["run/text_summary"]
    elif name == "mlflow":
        _, run = mlflow_run(tmp_path)
        assert {key: points for key, points in kept.items() if "/seed-" not in key} == {
            key: [(0, value)] for key, value in HEADLINE.items()
        }
        assert (run.data.tags["mlflow.note.content"], run.data.tags["tutelage.report"]) == ("It keeps it all.", page)
        assert run.data.tags["tutelage.recipe"] == "name: toy\nseeds: [0]"
        assert (run.data.params["data.counts.train"], run.info.status) == ("40", "FINISHED")
        assert run.info.run_name == f"toy ({tmp_path.name})"
    else:
        records = wandb_records(tmp_path)
        summary = {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for record in records if record.HasField("summary") for item in record.summary.update
        }  # fmt: skip
        assert {key: summary[key] for key in HEADLINE} == HEADLINE
        assert (summary["verdict"], summary["report"]) == ("It keeps it all.", page)
        (run,) = [record.run for record in records if record.HasField("run")]
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert (config["recipe_text"], config["data.counts.train"]) == ("name: toy\nseeds: [0]", "40")
        assert (run.project, run.display_name) == ("tutelage", f"toy ({tmp_path.name})")


def test_the_headline_has_only_numbers_that_are_known() -> None:
    assert headline(report({})) == HEADLINE


def test_facts_are_one_level_of_short_texts() -> None:
    assert flat(FACTS) == {
        "recipe": "toy", "seeds": "0, 1", "data.source": "made", "data.counts.train": "40", "classes": "50"
    }  # fmt: skip
    assert len(flat({"long": "x" * 5000})["long"]) == 400


# ---- killed and continued --------------------------------------------------------------------------------------------

START = """
import os, signal, sys
from pathlib import Path
from tutelage.training.trackers import open_trackers
print({"wandb", "mlflow", "tensorboard"} & set(sys.modules))  # importing tutelage imports no client
sys.path.insert(0, sys.argv[2])
from tracker_parts import FACTS, NAMES, made_up
"""
KILLED = """
trackers = open_trackers(NAMES, Path(sys.argv[1]), FACTS)
for epoch in (1, 2, 3):
    trackers.rows("scratch", 0, made_up(epoch))
    trackers.rows("distilled", 0, made_up(epoch, 1)[:2])
print(",".join(trackers.names), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
CONTINUED = """
with open_trackers(NAMES, Path(sys.argv[1]), FACTS) as trackers:
    for epoch in (2, 3, 4, 5):  # from a checkpoint of the first epoch on
        trackers.rows("scratch", 0, made_up(epoch))
        trackers.rows("distilled", 0, made_up(epoch, 1))
    print(",".join(trackers.names))
"""


@pytest.fixture
def gate() -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that lets nobody out, and remembers who asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    guest, _ = server.accept()
                except OSError:
                    return
                with guest:
                    guest.settimeout(5)
                    asked.append(guest.recv(200))

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def continued(tmp_path_factory: pytest.TempPathFactory, gate: tuple[str, list[bytes]]) -> tuple[Path, list[Any]]:
    """The folder of a run that was killed and went on, and the ids that it had before."""
    need(*NAMES)
    folder = tmp_path_factory.mktemp("killed")
    # An environment that says nothing to clients; some keep still, too, where they see that they are tested.
    silent = {key: os.environ[key] for key in ("PATH", "TMPDIR", "OMP_NUM_THREADS") if key in os.environ}
    silent["HOME"] = str(tmp_path_factory.mktemp("home"))
    silent |= {name: gate[0] for key in ("http_proxy", "https_proxy", "all_proxy") for name in (key, key.upper())}

    def run(script: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", START + script, str(folder), str(Path(__file__).parent)]
        return subprocess.run(command, env=silent, capture_output=True, text=True, timeout=120)

    done = run(KILLED)
    assert (done.returncode, done.stdout.split()) == (-signal.SIGKILL, ["set()", ",".join(NAMES)]), done.stderr
    home = folder / "trackers"
    before = ids(home)
    # A process can be killed while it writes, too.
    torn = next((home / "tensorboard" / "scratch" / "seed-0").iterdir())
    torn.write_bytes(torn.read_bytes()[:-9])
    with (home / "wandb.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 15.0, "epo')
    done = run(CONTINUED)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["set()", ",".join(NAMES)], "")
    return folder, before


def ids(home: Path) -> list[Any]:
    return [json.loads((home / f"{name}.json").read_text(encoding="utf-8")) for name in ("wandb", "mlflow")]


def test_a_killed_run_goes_on_in_its_place_and_nothing_leaves_the_machine(
    continued: tuple[Path, list[Any]], gate: tuple[str, list[bytes]]
) -> None:
    """One test, so that tests in several processes do not each start all of it."""
    folder, before = continued
    wanted = expected(made_up(5), "scratch", 0) | expected(made_up(5, 1), "distilled", 0)
    for name in NAMES:
        assert curves(READ[name](folder)) == wanted, f"{name} has repeated or missing steps"
    assert ids(folder / "trackers") == before
    (run,) = [record.run for record in wandb_records(folder) if record.HasField("run")]
    _, other = mlflow_run(folder)
    assert [run.run_id, other.info.run_id] == [before[0]["id"], before[1]["run_id"]]
    assert other.info.status == "KILLED"  # it has no end yet
    lines = (folder / "trackers" / "wandb.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines[:3]] == [5.0, 5.0, 10.0]
    assert len(lines) == 10  # the torn one is gone
    assert gate[1] == []  # the environment did not ask for more


def test_online_a_continued_run_sends_what_the_server_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one test with a stand-in for a client: what W&B's server has kept is `starting_step`."""
    sent: list[tuple[int, float]] = []
    asked: dict[str, Any] = {}

    def init(**arguments: Any) -> SimpleNamespace:
        asked.update(arguments)
        return SimpleNamespace(
            starting_step=len(sent), url="https://example.invalid/run", define_metric=lambda *_, **__: None,
            log=lambda row, step: sent.append((step, row["step"])), finish=lambda exit_code: None,
        )  # fmt: skip

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=dict))  # type: ignore[arg-type]
    monkeypatch.setenv("WANDB_MODE", "online")
    told: list[str] = []
    with open_trackers(["wandb"], tmp_path, FACTS, tell=told.append) as trackers:
        trackers.rows("distilled", 0, made_up(3))
    del sent[2:]  # the kill came before the third row did
    first = asked["id"]
    with open_trackers(["wandb"], tmp_path, FACTS, tell=told.append) as trackers:
        assert sent == [(0, 5.0), (1, 10.0), (2, 15.0)]
        trackers.rows("distilled", 0, made_up(4))
    assert sent == [(0, 5.0), (1, 10.0), (2, 15.0), (3, 20.0)]
    assert (asked["id"], asked["resume"], asked["mode"]) == (first, "allow", "online")
    assert told == ["tracker wandb: https://example.invalid/run"] * 2
    assert "WANDB_ERROR_REPORTING" not in os.environ


# ---- faults ----------------------------------------------------------------------------------------------------------


def break_tensorboard(home: Path) -> None:
    for path in sorted((home / "tensorboard").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (home / "tensorboard").rmdir()
    (home / "tensorboard").write_text("in the way")


def break_mlflow(home: Path) -> None:
    (home / "mlflow" / "mlflow.db").write_bytes(b"not a database" * 1000)


def break_wandb(home: Path) -> None:
    (home / "wandb.jsonl").unlink()
    (home / "wandb.jsonl").mkdir()


BREAK = {"tensorboard": break_tensorboard, "wandb": break_wandb, "mlflow": break_mlflow}


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_that_fails_is_said_once_and_training_goes_on(name: str, tmp_path: Path) -> None:
    beside = "wandb" if name == "tensorboard" else "tensorboard"
    need(name, beside)
    prepare(name, tmp_path)
    told: list[str] = []

    class Fault(Listener):
        def on_epoch_end(self, cohort: Cohort, at: Any) -> None:
            if at.epoch == 1:
                BREAK[name](tmp_path / "trackers")

    with open_trackers([name, beside], tmp_path, FACTS, tell=told.append) as trackers:
        learned = train(0, trackers, Fault())
        trackers.final(report({}), verdict="", page=tmp_path)
        assert trackers.names == [beside]
    failed = [line for line in told if "failed" in line]
    assert len(failed) == 1, told
    assert failed[0].startswith(f"tracker {name} failed (")
    assert "metrics.jsonl" in failed[0]
    assert [len(arm.curve) for arm in learned.arms] == [3, 3]
    assert len(curves(READ[beside](tmp_path))["scratch/seed-0/val_accuracy"]) == 3


def test_a_server_that_is_not_there_is_said_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("mlflow")
    with socket.socket() as taken:  # bound, but not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        told: list[str] = []
        with open_trackers(["mlflow"], tmp_path, FACTS, tell=told.append) as trackers:
            assert trackers.names == []
            assert train(0, trackers).at.epoch == 3
    assert len(told) == 1, told
    assert "tracker mlflow failed" in told[0]
    assert "secret" not in told[0]
    assert not (tmp_path / "trackers" / "mlflow").exists()


def test_a_folder_that_mlflow_cannot_address_gets_no_stray_database(tmp_path: Path) -> None:
    need("mlflow")
    told: list[str] = []
    with open_trackers(["mlflow"], tmp_path / "what?", FACTS, tell=told.append) as trackers:
        assert trackers.names == []
    assert "MLflow cannot address" in told[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "part"), [(name, part) for name in NAMES for part in PARTS[name]])
def test_a_missing_client_names_the_extra(
    name: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if part != PARTS[name][0]:
        need(name)
    for module in [module for module in sys.modules if module.split(".")[0] == part]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, part, None)
    for attempt in (lambda: check_trackers([name]), lambda: open_trackers([name], tmp_path, FACTS)):
        with pytest.raises(MissingExtraError, match=rf"report\.trackers: {name} needs(.|\n)*tutelage\[{name}\]"):
            attempt()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tracker_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean `tensorboard`"):
        open_trackers(["tensorbord"], tmp_path, FACTS)


# ---- what they never do ----------------------------------------------------------------------------------------------


def test_without_trackers_nothing_is_made_or_said(tmp_path: Path) -> None:
    told: list[str] = []
    with open_trackers([], tmp_path, FACTS, tell=told.append) as trackers:
        train(0, trackers)
        trackers.final(report({}), verdict="", page=tmp_path)
    assert (told, list(tmp_path.iterdir()), Trackers().names) == ([], [], [])
