"""Rows become examples: labels, groups, parts and views of columns."""

from __future__ import annotations

import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tutelage import distill
from tutelage.data import Examples, Rows, Views, from_rows, load, plain_batches
from tutelage.data.batches import Batches
from tutelage.data.examples import as_model_input
from tutelage.errors import DataError, InputError
from tutelage.teachers import Reading
from tutelage.types import Batch, Outputs

_NUMBERS = {"t": {"numbers": ["a", "b"]}}


def _rows(count: int = 400, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    a, b = random.normal(size=count), random.normal(size=count)
    kinds = np.where(a + 0.3 * random.normal(size=count) > 0, "high", "low")
    return {
        "a": a, "b": b, "kind": kinds, "who": [f"person {number % 37}" for number in range(count)],
        "said": [f"it is {kind} and row {number}" for number, kind in enumerate(kinds)],
    }  # fmt: skip


def test_rows_become_three_parts_with_named_classes() -> None:
    splits = from_rows(_rows(), label="kind", inputs=_NUMBERS)
    assert splits.train.classes == ("high", "low")
    assert sum(map(len, (splits.train, splits.val, splits.test))) == 400
    assert splits.train.inputs.dtype == torch.float32
    # Scaled by the training part, and by it alone.
    assert splits.train.inputs.mean(0).abs().max() < 1e-5
    assert splits.test.inputs.mean(0).abs().max() > 1e-4


def test_a_group_stays_in_one_part_whatever_is_read() -> None:
    rows = _rows()
    both = [
        from_rows(rows, label="kind", inputs=inputs, group="who")
        for inputs in (_NUMBERS, {"x": {"numbers": ["b"]}, "raw": {"text": ["said"]}})
    ]
    who = np.array(rows["who"])
    for splits in both:
        parts = [set(who[part.origins.numpy()]) for part in (splits.train, splits.val, splits.test)]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]
    assert set(both[0].test.origins.tolist()) == set(both[1].test.origins.tolist())


def test_the_order_of_rows_changes_nothing_but_origins() -> None:
    rows = _rows(120)
    turned = {name: list(values)[::-1] for name, values in rows.items()}
    one, other = (from_rows(given, label="kind", inputs=_NUMBERS) for given in (rows, turned))
    assert torch.equal(one.train.ids, other.train.ids)
    assert torch.allclose(one.train.inputs, other.train.inputs, atol=1e-6)
    assert torch.equal(one.train.targets, other.train.targets)


def test_views_travel_with_the_examples_and_can_be_read_instead() -> None:
    splits = from_rows(_rows(), label="kind", inputs={**_NUMBERS, "raw": {"text": ["said"]}})
    train = splits.train
    assert (train.reads, set(train.views)) == ("t", {"t", "raw"})
    assert torch.equal(train.views["t"], train.inputs)
    few = train.take(torch.tensor([3, 1]))
    assert torch.equal(few.views["raw"], train.views["raw"][[3, 1]])
    assert torch.equal(few.inputs, few.views["t"])
    other = train.reading("raw")
    assert torch.equal(other.inputs, train.views["raw"])
    assert torch.equal(other.reading("t").inputs, train.inputs)
    with pytest.raises(InputError, match=r"no view `row`.*\n.*\nhint: did you mean `raw`"):
        train.reading("row")
    batch = next(iter(plain_batches(train, 5)))
    assert set(batch.inputs) == {"x", "t", "raw"}
    assert torch.equal(batch.inputs["x"], batch.inputs["t"])
    assert batch.inputs["raw"].dtype == torch.uint8
    kept = splits.keeping({"raw"}).train
    assert set(kept.views) == {"raw"}
    assert torch.equal(kept.take(torch.tensor([0])).inputs, train.inputs[:1])
    assert splits.keeping({"t"}).train.views == {}


def test_what_a_view_is_made_by_is_part_of_who_the_data_are() -> None:
    rows = _rows()
    one = from_rows(rows, label="kind", inputs=_NUMBERS)
    other = from_rows(rows, label="kind", inputs={"t": {"numbers": ["b", "a"]}})
    assert torch.equal(one.train.ids, other.train.ids)
    assert one.fingerprint != other.fingerprint


def test_rows_without_label_or_text_are_left_out() -> None:
    rows = _rows()
    rows["said"][:7] = [""] * 7
    rows["kind"] = ["" if number in (20, 21) else kind for number, kind in enumerate(rows["kind"])]
    splits = from_rows(rows, label="kind", inputs={"raw": {"text": ["said"]}})
    assert sum(map(len, (splits.train, splits.val, splits.test))) == 400 - 9


def test_a_column_may_say_which_part_a_row_is_in() -> None:
    rows = _rows(90)
    rows["part"] = ["test" if number % 3 == 0 else "val" if number % 3 == 1 else "train" for number in range(90)]
    splits = from_rows(rows, label="kind", inputs=_NUMBERS, part="part")
    assert set((splits.test.origins % 3).tolist()) == {0}
    assert set((splits.val.origins % 3).tolist()) == {1}
    rows["part"][0] = "tset"
    with pytest.raises(DataError, match="does not say which part"):
        from_rows(rows, label="kind", inputs=_NUMBERS, part="part")


def test_folds_fit_what_makes_inputs_anew() -> None:
    rows = _rows()
    folds = [from_rows(rows, label="kind", inputs=_NUMBERS, fold=(number, 4)) for number in (1, 2, 3, 4)]
    tested = sorted(row for fold in folds for row in fold.test.origins.tolist())
    assert tested == list(range(400))
    for fold in folds:
        assert fold.train.inputs.mean(0).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": "kinds"}, "no column `kinds`"),
        ({"inputs": {"t": {"numbers": ["c"]}}}, "no column `c`"),
        ({"inputs": {"t": {"numbers": ["kind"]}}}, "holds no numbers"),
        ({"inputs": {"t": {}}}, "made of one kind of columns"),
        ({"inputs": {"t": {"numbers": ["a"], "text": ["said"]}}}, "made of one kind of columns"),
        ({"inputs": {"t": {"numbers": ["a"], "lgo": ["a"]}}}, "no option `lgo`"),
        ({"inputs": {}}, "nothing says what models read"),
        ({"reads": "u"}, "no view `u`"),
        ({"label": "a"}, "looks like a number"),
    ],
)
def test_mistakes_are_told(change: Mapping[str, Any], said: str) -> None:
    with pytest.raises((InputError, DataError), match=said):
        from_rows(_rows(), **{"label": "kind", "inputs": _NUMBERS, **change})


def test_columns_have_one_length() -> None:
    with pytest.raises(DataError, match="differ in length"):
        Rows("made", {"a": np.zeros(3), "b": np.zeros(2)})


# ---- tokens ----------------------------------------------------------------------------------------------------------


def _tokens(count: int = 60) -> Examples:
    random = np.random.default_rng(1)
    tokens = torch.from_numpy(random.integers(1, 9, size=(count, 5)).astype(np.int32))
    return Examples.make(tokens, (tokens.sum(1) % 2).long(), ["even", "odd"], "tokens", vocabulary=9)


def test_tokens_go_in_as_whole_numbers() -> None:
    examples = _tokens()
    assert examples.vocabulary == 9
    assert not examples.is_image
    assert as_model_input(examples.inputs).dtype == torch.int64
    batch = next(Batches(examples, batch_size=8, views=Views(), seed=0).epoch(0))
    assert batch.inputs["x"].dtype == torch.int64


def test_tokens_are_refused_where_they_are_none() -> None:
    examples = _tokens()
    with pytest.raises(InputError, match="not for tokens"):
        Batches(examples, batch_size=8, views=Views(mixup=0.2), seed=0)
    with pytest.raises(DataError, match="not in the vocabulary"):
        Examples.make(examples.inputs, examples.targets, ["a", "b"], "t", vocabulary=5)
    with pytest.raises(DataError, match="with the size of their vocabulary"):
        Examples.make(examples.inputs, examples.targets, ["a", "b"], "t")


# ---- a teacher that reads another view -------------------------------------------------------------------------------


class _Knows:
    """Answers by the text of an example, which the student never sees."""

    def answer(self, batch: Batch) -> Outputs:
        assert batch.view == 0
        text = batch.inputs["x"]
        assert text.dtype == torch.uint8
        high = (text[:, 6] == ord("h")).float()  # "it is high", "it is low"
        return Outputs(torch.stack([6 * high, 6 * (1 - high)], dim=1))

    def fingerprint(self) -> str:
        return "knows"

    def to(self, device: torch.device) -> None: ...


def test_a_teacher_of_another_view_teaches_and_is_stored_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_STORE", str(tmp_path / "store"))
    splits = from_rows(_rows(), label="kind", inputs={**_NUMBERS, "raw": {"text": ["said"]}})
    runs = [
        distill(
            Reading(_Knows(), "raw"), {"model": "mlp", "args": {"width": 8, "depth": 1}}, splits, epochs=3,
            out=tmp_path / f"run{number}", store=store, quiet=True, seeds=(0,),
        )
        for number, store in enumerate((None, "auto"))
    ]  # fmt: skip
    sums = [
        next(model for model in run.report["models"] if model["name"] == "distilled")["runs"][0]["sha256"]
        for run in runs
    ]
    assert sums[0] == sums[1]
    teacher = next(model for model in runs[0].report["models"] if model["role"] == "teacher")
    assert teacher["metrics"]["accuracy"]["value"] == 1.0


def test_a_fitted_teacher_reads_the_text_beside_numbers_that_students_read(tmp_path: Path) -> None:
    splits = from_rows(_rows(), label="kind", inputs={**_NUMBERS, "raw": {"text": ["said"]}})
    run = distill(
        {"model": "sklearn:tfidf", "reads": "raw"}, {"model": "mlp", "args": {"width": 8, "depth": 1}}, splits,
        epochs=2, out=tmp_path / "run", quiet=True,
    )  # fmt: skip
    teacher = next(model for model in run.report["models"] if model["role"] == "teacher")
    assert teacher["metrics"]["accuracy"]["value"] == 1.0
    assert (tmp_path / "run" / "teacher" / "teacher.json").is_file()


def test_a_folder_of_sounds_is_a_source_whose_speakers_stay_together(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for label, pitch in (("low", 200), ("high", 900)):
        (tmp_path / label).mkdir()
        for speaker in range(30):
            for take in range(2):
                wave_of = np.sin(np.arange(4000) * 2 * np.pi * pitch / 8000) + 0.1 * random.normal(size=4000)
                with wave.open(str(tmp_path / label / f"s{speaker}_{take}.wav"), "wb") as file:
                    file.setparams((1, 2, 8000, 4000, "NONE", ""))
                    file.writeframes((wave_of / 2 * 32767).astype("<i2").tobytes())
    splits = load("sounds", path=tmp_path)
    assert splits.train.is_image
    assert splits.train.encodings["s"]["kind"] == "sound"
    parts = [set(part.groups.tolist()) for part in (splits.train, splits.val, splits.test) if part.groups is not None]
    assert len(parts) == 3
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
