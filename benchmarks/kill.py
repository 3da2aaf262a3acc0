"""Kills a run at random moments, and compares the students it ends with with those of an undisturbed run.

Every lottery starts in an empty folder with an empty cache of teachers, so that the teacher's training is hit as well
as the students', the judging and the report. The run is killed with SIGKILL at a moment drawn over its length, and
the same command is given again; its students must then have the very bytes of the straight run's.

    python benchmarks/kill.py [--kills 20] [--seed 0]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = """
name: lottery
seeds: [0, 1]
data: {source: digits, views: {shift: 1}}
teacher: {model: cnn, args: {width: 16}, train: {epochs: 12, batch_size: 64, lr: 0.003, checkpoint_seconds: 0.2}}
student: {model: cnn, args: {width: 8, depth: 2, dropout: 0.1}}
train: {epochs: 12, batch_size: 64, lr: 0.005, checkpoint_seconds: 0.2}
report: {bootstrap: 500, latency: false}
threads: 1
"""


def students(folder: Path) -> dict[str, str]:
    """Path -> SHA-256 of every file of weights."""
    files = sorted(folder.glob("students/*/*/*.safetensors"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def start(root: Path, name: str) -> subprocess.Popen[bytes]:
    """A run in its own folder with its own cache, as a person would start it."""
    command = [sys.executable, "-m", "tutelage", "run", str(root / "recipe.yaml"), "--out", str(root / name), "--quiet"]
    return subprocess.Popen(
        command, env=os.environ | {"TUTELAGE_CACHE": str(root / f"cache-{name}")}, stdout=subprocess.DEVNULL
    )


def where(folder: Path) -> str:
    """What the run was doing, as far as its folder tells."""
    if not (folder / "manifest.json").is_file():
        return "starting"
    log = folder / "log.txt"
    return log.read_text().splitlines()[-1][10:50] if log.is_file() and log.stat().st_size else "starting"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    root = Path(tempfile.mkdtemp(prefix="tutelage-kill-"))
    (root / "recipe.yaml").write_text(RECIPE)
    begin = time.monotonic()
    if start(root, "straight").wait():
        raise SystemExit("the straight run failed")
    length = time.monotonic() - begin
    expected = students(root / "straight")
    print(f"straight run: {length:.1f} s, {len(expected)} files of weights")
    good = kills = 0
    for number in range(options.kills):
        # One kill at a moment drawn over the whole run, then on to the end: every part of a run is hit alike.
        name = f"run-{number}"
        process = start(root, name)
        moment = chance.uniform(0.0, length)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            doing = where(root / name)
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            code = start(root, name).wait()
        else:
            doing, code = "done already", process.returncode
        same = code == 0 and students(root / name) == expected
        stray = [str(p) for p in (root / name).rglob("*.tmp")]
        good += same and not stray
        print(
            f"  killed after {moment:5.2f} s ({doing}): {'identical' if same else 'DIFFERENT'} {stray or ''}",
            flush=True,
        )
    print(json.dumps({"lotteries": options.kills, "kills": kills, "identical": good, "seconds": round(length, 1)}))
    if good < options.kills:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
