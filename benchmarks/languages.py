"""What a teacher of one language says of another one, untranslated: the bar that a taught student has to clear.

    python benchmarks/languages.py [--language it] [--features 50000]

Fits the teacher of the recipe `cross-lingual` on the English texts of its training part, and asks it about the test
part twice: in English, as in the recipe, and in the other language as it stands.
"""

from __future__ import annotations

import argparse
import json

import torch

from tutelage.data import Splits, plain_batches
from tutelage.data.sources import load_rows
from tutelage.evaluation.predict import ask
from tutelage.evaluation.significance import wilson
from tutelage.teachers.foreign import open_foreign


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", default="it")
    parser.add_argument("--features", type=int, default=50_000)
    asked = parser.parse_args()
    views = {"other": {"text": f"text_{asked.language}"}, "en": {"text": "text"}}
    splits, _ = load_rows("debian", label="area", group="source", inputs=views)
    english: Splits = splits.reading("en")
    teacher = open_foreign(
        "sklearn:tfidf", {"ngram": 2, "C": 3.0, "max_features": asked.features}, classes=english.train.classes,
        fit=(english.train.inputs, english.train.targets),
    )  # fmt: skip
    found: dict[str, object] = {"language": asked.language, "train": len(splits.train), "test": len(splits.test)}
    for name, part in (("english", english.test), ("untranslated", splits.test)):
        right = (ask(teacher, plain_batches(part, 256), torch.device("cpu")).argmax(-1) == part.targets).double()
        share = wilson(float(right.mean()), len(part))
        found[name] = [round(value, 4) for value in (float(right.mean()), share.ci_low or 0.0, share.ci_high or 1.0)]
    counts = torch.bincount(splits.test.targets)
    found["most frequent class"] = round(float(counts.max()) / len(splits.test), 4)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
