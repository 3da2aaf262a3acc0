"""Weights & Biases: offline below `<run>/trackers/wandb`, unless WANDB_MODE in the user's environment says more."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from tutelage.files import append_line, read_json, read_text, write_json, write_text
from tutelage.training.trackers.protocol import client, series

__all__ = ["WandB"]

_PROJECT = "tutelage"
_SECONDS = 60.0  # to send what is left at the end; a server that has gone away would hold a finished run for ever


@final
class WandB:
    """Every number is logged under `distilled/seed-0/val_accuracy`, over the shared axes `step` and `epoch`.

    W&B's client writes behind, in a process that dies with ours: after a kill its file may hold nothing. So every row
    is first kept in `<run>/trackers/wandb.jsonl`; its line number is W&B's own step. Online, a continued run sends the
    lines that the server lacks. Offline, it writes all of them anew, and the older folder goes: one whole folder is
    left, under the same id (in `wandb.json`), for `wandb sync`.

    Args:
        home: `<run>/trackers`.

    Raises:
        MissingExtraError: wandb is not installed.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._mode = os.environ.get("WANDB_MODE") or "offline"
        self._offline = self._mode in ("offline", "dryrun")
        if self._offline or self._mode == "disabled":
            # Otherwise its client reports its own faults and timings to its makers, offline or not.
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._wandb = client("wandb", "wandb", "wandb")
        self._run: Any = None
        self._rows: list[dict[str, float]] = []
        self._ended = False

    def begin(self, name: str, facts: Mapping[str, str], recipe: str) -> str:
        self._home.mkdir(parents=True, exist_ok=True)
        self._rows = self._kept()
        memory = self._home / "wandb.json"
        if not memory.is_file():
            write_json(memory, {"id": uuid.uuid4().hex[:12]})
        run_id = str(read_json(memory)["id"])
        settings: dict[str, Any] = {"silent": True, "console": os.environ.get("WANDB_CONSOLE", "off")}
        if "WANDB_FINISH_TIMEOUT" not in os.environ:
            settings["finish_timeout"] = _SECONDS
        self._run = self._wandb.init(
            dir=str(self._home), project=os.environ.get("WANDB_PROJECT", _PROJECT), name=name, id=run_id,
            mode=self._mode, resume=None if self._offline else "allow", reinit="create_new", allow_val_change=True,
            config={**facts, "recipe_text": recipe}, settings=self._wandb.Settings(**settings),
        )  # fmt: skip
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        for number in range(self._run.starting_step, len(self._rows)):
            self._run.log(self._rows[number], step=number)
        if not self._offline:
            return str(self._run.url or f"mode {self._mode}")
        here = Path(self._run.settings.sync_dir)
        for older in here.parent.glob(f"offline-run-*-{run_id}*"):
            if older != here:
                shutil.rmtree(older, ignore_errors=True)
        return f"offline; to send it: wandb sync {here}"

    def reached(self, arm: str, seed: int) -> int:
        place = f"{series(arm, seed)}/"
        return max((int(row["step"]) for row in self._rows if any(key.startswith(place) for key in row)), default=-1)

    def epoch(self, arm: str, seed: int, row: Mapping[str, float]) -> None:
        axes = ("step", "epoch")
        named = {key: row[key] for key in axes}
        named |= {f"{series(arm, seed)}/{key}": value for key, value in row.items() if key not in axes}
        append_line(self._home / "wandb.jsonl", json.dumps(named))
        self._rows.append(named)
        self._run.log(named, step=len(self._rows) - 1)

    def final(self, numbers: Mapping[str, float], words: Mapping[str, str]) -> None:
        self._run.summary.update({**numbers, **words})
        self._ended = True

    def close(self) -> None:
        if self._run is None:
            return
        try:
            self._run.finish(exit_code=0 if self._ended else 1)
        except Exception:
            # Its process is gone; without this, the end of ours would show a traceback of its.
            with contextlib.suppress(Exception):
                self._wandb.teardown()
            raise

    def _kept(self) -> list[dict[str, float]]:
        """The rows of earlier processes; a torn last line of a killed one is removed."""
        path = self._home / "wandb.jsonl"
        lines = read_text(path).splitlines() if path.is_file() else []
        rows: list[dict[str, float]] = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except ValueError:
                write_text(path, "".join(f"{json.dumps(row)}\n" for row in rows))
                break
        return rows
