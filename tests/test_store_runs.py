"""Runs that read a store instead of a live teacher, and the command line around it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tutelage
from command_line import call
from tutelage.data import Batches, Views, load, plain_batches
from tutelage.errors import DamagedError, InputError, MismatchError, ModelError
from tutelage.losses import cross_entropy, soft_target
from tutelage.recipe import Recipe, from_mapping
from tutelage.run import build_store, estimate_store, run_recipe
from tutelage.store import StoredTeacher, stores_in

TINY: dict[str, Any] = {
    "name": "tiny",
    "seeds": [0, 1],
    "data": {"source": "digits", "limit": 300},
    "teacher": {"model": "mlp", "args": {"width": 32}, "train": {"epochs": 3, "batch_size": 32, "lr": 0.01}},
    "student": {"model": "mlp", "args": {"width": 4, "depth": 1}},
    "train": {"epochs": 3, "batch_size": 32, "lr": 0.01},
    "report": {"bootstrap": 100, "latency": False},
}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTELAGE_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def tiny(*changes: str) -> Recipe:
    return from_mapping(TINY, changes)


def students(folder: Path) -> dict[str, str]:
    found = sorted(folder.glob("students/*/*/student.safetensors"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def written(tmp_path: Path, *changes: str) -> str:
    from tutelage.recipe import dump

    path = tmp_path / "recipe.yaml"
    path.write_text(dump(tiny(*changes)))
    return str(path)


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("views", "store"),
    [
        ("{}", "auto"),
        ("{shift: 1}", "{views: replay}"),
        ("{flip: 0.5, rotate: 9, crop: 0.8, erase: 0.3}", "{views: replay}"),
        ("{mixup: 0.4}", "{views: replay}"),
        ("{cutmix: 1, shift: 1}", "{views: replay}"),
    ],
)
def test_stored_answers_teach_the_very_same_students(views: str, store: str, tmp_path: Path) -> None:
    live = run_recipe(tiny(f"data.views={views}"), tmp_path / "live", quiet=True)
    stored = run_recipe(tiny(f"data.views={views}", f"teacher.store={store}"), tmp_path / "stored", quiet=True)
    assert students(stored.folder) == students(live.folder)
    assert len(students(live.folder)) == 4


def test_recorded_views_serve_every_epoch_of_every_seed(tmp_path: Path, root: Path) -> None:
    run = run_recipe(tiny("data.views={shift: 1}", "teacher.store={views: 2}"), tmp_path / "run", quiet=True)
    facts = json.loads((run.folder / "manifest.json").read_text())["store"]
    assert facts["views"] == 2
    assert facts["rows"] == facts["asked"] == 600
    [folder] = stores_in(root)
    assert len(StoredTeacher(folder).views) == 2
    again = run_recipe(tiny("data.views={shift: 1}", "teacher.store={views: 2}"), tmp_path / "again", quiet=True)
    assert json.loads((again.folder / "manifest.json").read_text())["store"]["asked"] == 0
    assert students(again.folder) == students(run.folder)


def test_auto_records_no_more_views_than_the_run_draws(tmp_path: Path) -> None:
    def kept(*changes: str) -> object:
        run = run_recipe(
            tiny(*changes, "teacher.store=auto"), tmp_path / str(len(list(tmp_path.iterdir()))), quiet=True
        )
        return json.loads((run.folder / "manifest.json").read_text())["store"]["views"]

    assert kept("seeds=[0]", "train.epochs=1") == "none"
    assert kept("seeds=[0]", "train.epochs=2", "data.views={shift: 1}") == "replay"
    assert kept("seeds=[0, 1]", "train.epochs=3", "data.views={shift: 1}") == 4


def test_epochs_take_recorded_views_in_turn() -> None:
    examples = load("digits").train
    batches = Batches(examples, batch_size=64, views=Views(shift=1), seed=5, recorded=3)
    assert [batches.draw(epoch) for epoch in range(4)] == [(0, 2), (0, 0), (0, 1), (0, 2)]
    one, other = next(batches.epoch(0)), next(batches.epoch(3))
    assert one.view == other.view
    assert not torch.equal(one.ids, other.ids)  # the order is that of the epoch itself
    place = {int(i): n for n, i in enumerate(one.ids)}
    shared = [(place[int(i)], n) for n, i in enumerate(other.ids) if int(i) in place]
    assert shared
    for a, b in shared:
        torch.testing.assert_close(one.inputs["x"][a], other.inputs["x"][b], rtol=0, atol=0)


@pytest.mark.parametrize("codec", ["fp16", "bf16", "int8", "top-3", "sample-24"])
def test_every_codec_teaches(codec: str, tmp_path: Path) -> None:
    run = run_recipe(tiny(f"teacher.store={{codec: {codec}}}"), tmp_path / "run", quiet=True)
    assert json.loads((run.folder / "manifest.json").read_text())["store"]["codec"] == codec
    assert run.report["models"]


def test_another_teacher_or_precision_gets_its_own_store(tmp_path: Path, root: Path) -> None:
    build_store(tiny("teacher.store=auto"), quiet=True)
    build_store(tiny("teacher.store=auto"), quiet=True)
    assert len(stores_in(root)) == 1
    build_store(tiny("teacher.store=auto", "teacher.seed=1"), quiet=True)
    assert len(stores_in(root)) == 2
    build_store(tiny("teacher.store={precision: bf16}"), quiet=True)
    assert len(stores_in(root)) == 3
    found = [StoredTeacher(folder).manifest for folder in stores_in(root)]
    assert sorted(manifest.identity["precision"] for manifest in found) == ["32", "32", "bf16"]
    assert {shard.device for manifest in found for shard in manifest.shards} == {"cpu"}


def test_a_recipe_without_a_store_can_have_one_built(root: Path) -> None:
    built = build_store(tiny(), quiet=True)
    assert built.asked == built.rows == 300
    assert built.added == 300
    run_recipe(tiny("teacher.store=auto"), root.parent / "run", quiet=True)
    assert len(stores_in(root)) == 1


def test_features_are_stored_beside_the_logits(root: Path) -> None:
    with pytest.raises(ModelError, match=r"did you mean `net\.head`"):
        build_store(tiny("teacher.store={features: [net.haed]}"), quiet=True)
    built = build_store(tiny("teacher.store={features: ['net.hid*.3', net.head]}"), quiet=True)
    stored = StoredTeacher(built.place)
    examples = load("digits").train
    batch = next(plain_batches(examples, 300))  # a limit keeps the first ones
    answer = stored.answer(batch)
    assert isinstance(answer.logits, Tensor)
    assert {place: tuple(kept.shape) for place, kept in answer.features.items()} == {
        "net.head": (300, 10), "net.hidden.3": (300, 32),
    }  # fmt: skip
    torch.testing.assert_close(answer.features["net.head"], answer.logits, rtol=0, atol=0)
    with pytest.raises(MismatchError, match="have no stored answer"):
        stored.answer(next(plain_batches(examples, 301)))


class Dice(nn.Module):
    """A teacher that never answers twice alike."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1)) + torch.randn(len(x), 10)


def test_a_random_teacher_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="not those of this teacher"):
        tutelage.distill(Dice(), "mlp", "digits", epochs=1, store="auto", out=tmp_path / "run", quiet=True)


def test_from_python(tmp_path: Path, root: Path) -> None:
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    whole = {"epochs": 2, "quiet": True, "objective": [tutelage.Term(soft_target, temperature=2), cross_entropy]}
    live = tutelage.distill(teacher, "mlp", "digits", out=tmp_path / "live", **whole)
    stored = tutelage.distill(teacher, "mlp", "digits", out=tmp_path / "stored", store={"codec": "fp32"}, **whole)
    assert students(live.folder) == students(stored.folder)
    assert len(stores_in(root)) == 1
    with pytest.raises(InputError, match="kodek"):
        tutelage.distill(teacher, "mlp", "digits", out=tmp_path / "bad", store={"kodek": "fp32"}, **whole)
    with pytest.raises(InputError, match="no such store"):
        tutelage.distill(teacher, "mlp", "digits", out=tmp_path / "bad", store="always", **whole)


def test_one_key_of_a_store_that_is_auto_can_be_set() -> None:
    recipe = tiny("teacher.store=auto", "teacher.store.views=3")
    assert recipe.teacher.store is not None
    assert (recipe.teacher.store.views, recipe.teacher.store.codec) == (3, "fp32")
    with pytest.raises(InputError, match="`device`"):
        tiny("device=auto", "device.x=1")


# ---- what is refused before anything is asked ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["data.views={shift: 1}", "teacher.store={views: none}"], ["views: 4", "views: replay"]),
        (["teacher.store={codec: top-11}"], ["top-1 … top-10"]),
        (
            ["teacher.store={codec: top-3}", "arms={distilled: [{loss: decoupled}]}"],
            ["arm `distilled`", "reads every logit"],
        ),
        (
            ["teacher.store={codec: sample-8}", "arms={distilled: [{loss: reverse_soft_target}]}"],
            ["arm `distilled`", "linearly"],
        ),
        (
            [
                "teacher.store={codec: top-3}",
                "arms={a: [{loss: soft_target}], b: [{loss: soft_target, temperature: 2}]}",
            ],
            ["several", "2, 4"],
        ),
        (
            [
                "teacher.store={codec: top-3}",
                "arms={a: [{loss: soft_target, temperature: {schedule: linear, start: 8, end: 2}}]}",
            ],
            ["several", "2, 8"],
        ),
        (
            ["teacher.store={codec: top-3, temperature: 1}", "arms={a: [{loss: soft_target}]}"],
            ["arm `a`", "another temperature"],
        ),
    ],
)
def test_what_cannot_work_is_refused(changes: list[str], said: list[str], tmp_path: Path, root: Path) -> None:
    with pytest.raises(InputError) as caught:
        run_recipe(tiny(*changes), tmp_path / "run", quiet=True)
    for words in said:
        assert words in str(caught.value)
    assert not root.exists()
    assert not (tmp_path / "run" / "students").exists()


# ---- the command line ------------------------------------------------------------------------------------------------


def test_the_life_of_a_store_on_the_command_line(tmp_path: Path, root: Path) -> None:
    recipe = written(tmp_path, "teacher.store=auto")
    built = call("cache", "build", recipe, "--quiet")
    assert built.code == 0
    assert "+300 / ~0 / −0" in built.out
    assert "300 of 300 rows asked" in built.out
    again = json.loads(call("cache", "build", recipe, "--quiet", "--json").out)
    assert (again["asked"], again["rows"]) == (0, 300)
    [listed] = json.loads(call("cache", "ls", "--json").out)
    key = listed["key"]
    assert (listed["rows"], listed["codec"], listed["classes"], listed["devices"]) == (300, "fp32", 10, ["cpu"])
    assert key[:8] in call("cache", "ls").out
    assert call("cache", "verify").code == 0

    shard = root / key / "shard-00000.safetensors"
    good = shard.read_bytes()
    shard.write_bytes(good[:-5000] + bytes([good[-5000] ^ 1]) + good[-4999:])
    broken = call("cache", "verify", key[:6])
    assert broken.code == 5
    assert "shard-00000.safetensors" in broken.out
    assert "rows" in broken.out
    refused = call("run", recipe, "--out", str(tmp_path / "run"), "--quiet")
    assert refused.code == 5
    assert "cache repair" in refused.err
    mended = call("cache", "repair", recipe, "--quiet")
    assert mended.code == 0
    assert "1 damaged file mended" in mended.out
    assert shard.read_bytes() == good
    assert "nothing was damaged" in call("cache", "repair", recipe, "--quiet").out
    assert call("run", recipe, "--out", str(tmp_path / "run"), "--quiet").code == 0

    assert "would be removed" in call("cache", "prune", key[:6]).out
    assert shard.exists()
    assert "would be removed" not in call("cache", "prune", "--older-than", "1", "--yes").out
    assert shard.exists()
    assert call("cache", "prune", key, "--yes").code == 0
    assert stores_in(root) == []
    assert "no stores" in call("cache", "ls").out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["cache", "bild"], 2, "did you mean `build`?"),
        (["cache", "prune"], 2, "--all or --older-than DAYS"),
        (["cache", "export", "abc", "out.parquet"], 2, "no stores"),
        (["cache", "verify", "abc"], 2, "no stores"),
        (["cache", "build", "no-such-recipe"], 2, "no-such-recipe"),
        (["cache", "ls", "--store", "s3://bucket/answers"], 2, "local folder"),
        (["cache", "build", "digits", "--set", "teacher.store={views: 0}"], 2, "auto, none, replay"),
        (["cache", "build", "digits", "--set", "teacher.store={codec: top}"], 2, "top-K"),
        (["cache", "build", "digits", "--set", "teacher.store={vews: 2}"], 2, "did you mean `views`?"),
        (["cache", "build", "digits", "--set", "teacher.store=yes"], 2, "expected auto"),
    ],
)
def test_mistakes_are_answered(words: list[str], code: int, said: str) -> None:
    outcome = call(*words)
    assert outcome.code == code
    assert said in outcome.err
    assert "Traceback" not in outcome.err


def test_export_to_parquet(tmp_path: Path, root: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")
    for codec, columns in (
        ("fp16", {"id", "view", "logits"}),
        ("top-3", {"id", "view", "values", "indices", "tail"}),
        ("sample-8", {"id", "view", "indices", "weights"}),
    ):
        built = build_store(tiny(f"teacher.store={{codec: {codec}}}"), quiet=True)
        out = tmp_path / f"{codec}.parquet"
        assert "300 rows" in call("cache", "export", built.place.name[:8], str(out)).out
        table = parquet.read_table(out)
        assert set(table.column_names) == columns
        assert table.schema.metadata[b"tutelage.classes"].decode().split("\n") == [str(n) for n in range(10)]
        stored = StoredTeacher(built.place)
        ids = torch.tensor(table["id"].to_pylist())
        answer = stored.answer(tutelage.Batch(ids, {}, ids)).logits
        if isinstance(answer, Tensor):
            torch.testing.assert_close(torch.tensor(table["logits"].to_pylist()), answer.float(), rtol=0, atol=0)
        else:
            assert torch.equal(torch.tensor(table["indices"].to_pylist()), answer.indices)
        again = call("cache", "export", built.place.name, str(out))
        assert again.code == 2
        assert "--overwrite" in again.err


def test_estimates_are_near_what_is_written(tmp_path: Path, root: Path) -> None:
    before = estimate_store(tiny("seeds=[7]", "teacher.seed=12"), quiet=True)
    assert before.seconds is None  # the teacher is not trained for an estimate
    assert all(cost.cosine is None for cost in before.codecs)
    for codec in ("fp32", "int8", "top-4", "sample-16"):
        build_store(tiny("data.limit=null", f"teacher.store={{codec: {codec}}}"), quiet=True)
    found = estimate_store(tiny("data.limit=null"), quiet=True)
    assert found.seconds is not None
    costs = {cost.codec: cost for cost in found.codecs}
    for folder in stores_in(root):
        stored = StoredTeacher(folder)
        codec = stored.manifest.identity["codec"]
        assert costs[codec].bytes == pytest.approx(stored.bytes, rel=0.05)
    assert costs["fp32"].error == 0.0
    errors = [costs[name].error or 0.0 for name in ("fp16", "bf16", "top-4", "sample-16")]
    assert errors == sorted(errors)
    shown = call("cache", "estimate", written(tmp_path, "data.limit=null"), "--quiet")
    assert shown.code == 0
    assert "cosine" in shown.out


def test_processes_under_torchrun_share_the_work(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = written(tmp_path, "teacher.store={codec: fp16}", "data.limit=null")
    alone = build_store(tiny("teacher.store={codec: fp16}", "data.limit=null"), quiet=True)
    straight = {p.name: p.read_bytes() for p in alone.place.glob("[sml]*")}
    shutil.rmtree(root)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, "-m", "tutelage", "cache", "build", recipe, "--quiet", "--json"],
        capture_output=True, text=True, timeout=240, env=os.environ | {"TUTELAGE_STORE": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    [folder] = stores_in(root)
    assert {p.name: p.read_bytes() for p in folder.glob("[sml]*")} == straight
    asked = [int(line.split(":")[1].strip(" ,")) for line in done.stdout.splitlines() if '"asked"' in line]
    assert sum(asked) == alone.rows
