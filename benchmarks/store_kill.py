"""Kills builds of a store at random moments, and compares what they end with with an undisturbed build.

A store is built, killed with SIGKILL, built on, killed, and so on to its end; then rows are added in the same manner.
After each kill the folder alone says what was committed: every whole shard under its final name. None of these rows may
be asked again, at most one shard's rows may be asked twice for each kill, and the finished files must have the very
bytes of the straight build's, but for the history. Every second store has a teacher without delay, so that kills fall
into writing and sealing as well as into asking.

    python benchmarks/store_kill.py [--kills 300] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tutelage.data import Examples, Views
from tutelage.errors import DamagedError
from tutelage.store import Capture, Question, build, codec_of, verify
from tutelage.store import plan as store_plan
from tutelage.store.layout import bad_blocks, unpack
from tutelage.teachers import ModuleTeacher
from tutelage.types import Batch, Outputs

SHARD = 512  # rows, two blocks
PROBE = 8  # a new plan asks about so many examples first, to know whether the answers will fit on the disk
DELAY = 0.05  # seconds for a block
CLASSES = [str(number) for number in range(10)]


def questions() -> list[Question]:
    """16 shards, and 4 more with what is added; the last one of each is short."""
    images = torch.randint(0, 256, (20 * SHARD - 48, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    targets = torch.arange(len(images)) % len(CLASSES)
    first = 16 * SHARD - 24
    return [
        Question(Examples.make(images[:count], targets[:count], CLASSES, "images"), Views(), [None])
        for count in (first, len(images))
    ]


def capture(log: Path, delay: float) -> Capture:
    """A teacher that first writes down whom it is asked about: what was asked is paid for, killed or not."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = ModuleTeacher(nn.Sequential(nn.Flatten(), nn.Linear(64, len(CLASSES))))

    def ask(batch: Batch) -> Outputs:
        ids = np.unique(batch.ids.numpy())
        if len(ids) != PROBE:
            file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(file, ids.tobytes())
            os.close(file)
            time.sleep(delay)
        return teacher.answer(batch)

    return Capture(ask, teacher.fingerprint(), codec_of("fp16"))


def committed(root: Path) -> set[int]:
    """The ids in every whole shard, whether a manifest names it or not."""
    found: set[int] = set()
    for path in root.glob("*/shard-*.safetensors"):
        try:
            columns = unpack(path.read_bytes(), str(path))
        except DamagedError:
            continue
        if not bad_blocks(columns):
            found.update(columns["id"].tolist())
    return found


def files(root: Path) -> dict[str, bytes]:
    """A store's files, but for the lock and the history, which has times in it."""
    return {p.name: p.read_bytes() for p in root.glob("*/*") if p.name not in (".lock", "history.jsonl")}


@dataclass
class Tally:
    """What the kills did."""

    kills: int = 0
    stores: int = 0
    identical: int = 0
    lost: int = 0  # committed rows that were asked again, or are not there at the end
    duplicated: int = 0  # rows that are there twice at the end
    most_rows_redone: int = 0
    strays: int = 0
    phases: Counter[str] = field(default_factory=Counter)  # where kills fell, as far as the folder tells


def phase(root: Path) -> str:
    names = {path.name for path in root.glob("*/*")} | {path.suffix for path in root.glob("*/.*")}
    if ".tmp" in names:
        return "a file is half-written"
    if "plan.safetensors" in names:
        return "a plan is open"
    return "sealed" if "manifest.json" in names else "nothing yet"


def one_store(root: Path, asked: list[Question], straight: list[dict[str, bytes]], window: float, delay: float,
              chance: random.Random, tally: Tally) -> bool:  # fmt: skip
    """From nothing to the end, kill by kill; whether everything was as it should be."""
    good = True
    for question, expected in zip(asked, straight, strict=True):
        before: set[int] = committed(root)
        paid: Counter[int] = Counter()
        for attempt in range(10_000):
            log = root.with_name(f"{root.name}-{len(question.ids())}-{attempt}.log")
            # Forked, not started anew: a start takes longer than a build, and kills should fall into builds.
            process = multiprocessing.get_context("fork").Process(
                target=build, args=(root, question, capture(log, delay))
            )
            process.start()
            process.join(chance.uniform(0.0, window))
            ended = process.exitcode is not None
            if not ended:
                process.kill()
                process.join()
                ended = process.exitcode == 0  # in the very moment
            now = Counter(np.fromfile(log, dtype=np.int64).tolist() if log.is_file() else [])
            log.unlink(missing_ok=True)
            lost = len(before & set(now))
            redone = sum((now & paid).values()) + sum(now.values()) - len(now)
            paid += now
            tally.lost += lost
            tally.most_rows_redone = max(tally.most_rows_redone, redone)
            after = committed(root)
            tally.lost += len(before - after)
            good &= not lost and redone <= SHARD and before <= after and process.exitcode in (0, -9)
            before = after
            if ended:
                break
            tally.kills += 1
            tally.phases[phase(root)] += 1
        good &= process.exitcode == 0
        found = files(root)
        strays = sum(name.endswith(".tmp") for name in found)
        rows = Counter(i for p in root.glob("*/shard-*") for i in unpack(p.read_bytes(), "")["id"].tolist())
        tally.strays += strays
        tally.duplicated += sum(rows.values()) - len(rows)
        tally.lost += len(set(question.ids().tolist()) - set(rows))
        good &= found == expected and max(rows.values()) == 1 and set(rows) == set(question.ids().tolist())
        good &= not list(verify(next(root.iterdir())))
    tally.stores += 1
    tally.identical += good
    return bool(good)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    store_plan._LEAST_ROWS = SHARD
    chance, tally, asked = random.Random(options.seed), Tally(), questions()
    root = Path(tempfile.mkdtemp(prefix="tutelage-store-kill-"))
    start = time.monotonic()
    straight = []
    for question in asked:
        build(root / "straight", question, capture(root / "straight.log", 0.0))
        straight.append(files(root / "straight"))
    quick = time.monotonic() - start
    print(f"straight builds without delay: {quick:.2f} s, {len(straight[-1])} files", flush=True)
    while tally.kills < options.kills:
        slow = tally.stores % 2 == 0
        window, delay = (8 * DELAY, DELAY) if slow else (max(quick / 2, 0.04), 0.0)
        here, kills = root / f"store-{tally.stores}", tally.kills
        good = one_store(here, asked, straight, window, delay, chance, tally)
        kind = "slow" if slow else "quick"
        print(f"  {kind:5} teacher, {tally.kills - kills:3} kills: {'identical' if good else 'DIFFERENT'}", flush=True)
        if good:
            shutil.rmtree(here)
    told = {name: value for name, value in vars(tally).items() if name != "phases"}
    print(json.dumps(told | {"found_after_kills": dict(sorted(tally.phases.items())), "rows_in_a_shard": SHARD,
                             "seconds": round(time.monotonic() - start, 1)}))  # fmt: skip
    if tally.identical < tally.stores or tally.lost or tally.duplicated:
        print(f"what is left lies in {root}")
        raise SystemExit(1)
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
