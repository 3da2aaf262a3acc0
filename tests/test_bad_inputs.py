"""What people mistype, download by half and point at by mistake: each is answered in a few lines that say what to do.

Every row goes through the command line, and is judged by its exit code, by what the message says, and by what is left.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from command_line import Outcome, call

RECIPE = """\
name: tiny
seeds: [0]
data:
  source: digits
  limit: 64
teacher:
  model: mlp
  args: {width: 8, depth: 1}
  train: {epochs: 1, batch_size: 32, lr: 0.01}
student:
  model: mlp
  args: {width: 4, depth: 1}
arms:
  distilled:
    - {loss: soft_target, temperature: 4}
train:
  epochs: 1
  batch_size: 32
  lr: 0.01
report: {bootstrap: 100, latency: false}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("TUTELAGE_DEBUG", raising=False)


def refused(outcome: Outcome, code: int, says: tuple[str, ...]) -> None:
    """The message is one that a person can act on."""
    assert outcome.code == code, outcome.err
    assert not outcome.out
    assert "Traceback" not in outcome.err
    assert outcome.err.startswith("error: ")
    assert len(outcome.err.splitlines()) <= 8, outcome.err
    for said in says:
        assert said in outcome.err


def swap(old: str, new: str) -> str:
    assert old in RECIPE
    return RECIPE.replace(old, new)


def sets(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

# what the file holds, the exit code is 2, what the message says; numbers are those of the collection of bad inputs
FILES: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "01 unknown key": (
        swap("temperature: 4", "temprature: 4"),
        ("unknown key `temprature` (recipe.yaml:15)", "hint: did you mean `temperature`?"),
    ),
    "01 unknown key of train": (swap("  epochs: 1\n", "  epoch: 1\n"), ("`epoch` (recipe.yaml:17)", "`epochs`?")),
    "02 wrong nesting": (RECIPE + "lr: 0.1\n", ("`lr` belongs under `train:` or `teacher.train:` (recipe.yaml:21)",)),
    "02 term key at the top": (
        RECIPE + "temperature: 4\n",
        ("`temperature` belongs under `teacher.store:` or `arms.<arm>:`",),
    ),
    "04 text for a number": (
        swap("  lr: 0.01", "  lr: fast"),
        ("`train.lr`: expected a number > 0, got 'fast' (recipe.yaml:19)",),
    ),
    "04 yes for a number": (swap("limit: 64", "limit: yes"), ("`data.limit`: expected a whole number ≥ 1, got 'yes'",)),
    "10 duplicate key": (
        swap("  lr: 0.01", "  lr: 0.01\n  lr: 0.02"),
        ("`train.lr` is defined twice: lines 19 and 20", "hint: keep one of them"),
    ),
    "11 tab": (swap("  epochs", "\tepochs"), ("a tab cannot indent", "recipe.yaml:17, column 1", "use spaces")),
    "12 tag that runs": (
        swap("name: tiny", "name: !!python/object/apply:os.system ['touch canary']"),
        ("'!!python/object/apply:os.system' is refused", "(recipe.yaml:1)"),
    ),
    "13 billion laughs": (BOMB, ("aliases make this recipe too large", "at most 10,000 values")),
    "14 empty": ("", ("the recipe is empty (recipe.yaml)", "hint: start from a built-in one")),
    "15 list": ("- a\n- b\n", ("a recipe is a mapping of keys to values", "given     a list")),
    "16 TOML": ("epochs = 3\n", ("looks like TOML; a recipe is YAML", "`epochs: 3`, not `epochs = 3`")),
    "16 brackets": (swap("source: digits", "source: [1"), ("not valid YAML", "recipe.yaml:5")),
    "17 UTF-16 without a mark": (RECIPE.encode("utf-16-le"), ("not UTF-8 text", "hint: save it as UTF-8")),
    "17 Latin-1": (b"seeds: [0]\nname: caf\xe9\n", ("not UTF-8 text (recipe.yaml:2)", "byte 0xe9 at position 20")),
    "two documents": (RECIPE + "---\nname: b\n", ("a second one starts here (recipe.yaml:21",)),
    "missing key": (swap("name: tiny\n", ""), ("`name` is missing (recipe.yaml)",)),
    "too large": ("x" * 200_000, ("too large to be a recipe", "100,000 bytes")),
    "two at once": (
        swap("epochs: 1\n", "epochs: 0\n").replace("limit", "limt"),
        ("2 problems", "`limt` (recipe.yaml:5)", "`limit`?", "`train.epochs`: expected a whole number ≥ 1, got 0"),
    ),
    "teacher that knows nothing": (
        RECIPE.replace("  train: {epochs: 1, batch_size: 32, lr: 0.01}\n", ""),
        ("the teacher `mlp` knows nothing yet", "give `weights:` with its file, or `train:`"),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_recipe(name: str, tmp_path: Path) -> None:
    text, says = FILES[name]
    Path("recipe.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(call("run", "recipe.yaml", "--out", "out", "--quiet"), 2, says)
    assert [entry.name for entry in tmp_path.iterdir()] == ["recipe.yaml"]


# flags after `run recipe.yaml --out out`, and what the message says; the exit code is 2
FLAGS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "05 negative lr": (sets("train.lr=-0.1"), ("`train.lr`: expected a number > 0, got -0.1 (--set train.lr=-0.1)",)),
    "05 zero lr": (sets("train.lr=0"), ("expected a number > 0, got 0",)),
    "05 nan": (sets("train.lr=.nan"), ("expected a number > 0, got .nan",)),
    "05 inf": (sets("train.lr=.inf"), ("expected a number > 0, got .inf",)),
    "06 half an epoch": (sets("train.epochs=2.5"), ("`train.epochs`: expected a whole number ≥ 1, got 2.5",)),
    "06 minus one epoch": (sets("train.epochs=-1"), ("`train.epochs`: expected a whole number ≥ 1, got -1",)),
    "07 temperature 0": (
        sets("arms.distilled.0.temperature=0"),
        ("`arms.distilled.0.temperature`: expected a number > 0",),
    ),
    "07 temperature -1": (sets("arms.distilled.0.temperature=-1"), ("got -1",)),
    "07 temperature that falls to 0": (
        sets("arms.distilled.0.temperature={schedule: linear, start: 4, end: 0}"),
        ("a temperature must stay above 0",),
    ),
    "08 negative weight": (sets("arms.distilled.0.weight=-1"), ("expected a number ≥ 0",)),
    "19 batch size": (sets("train.batch_size=abc"), ("`train.batch_size`: expected a whole number ≥ 2, got 'abc'",)),
    "21 flag that does not exist": (["--overwrite", "--resume"], ("No such option '--resume'", "tutelage run --help")),
    "23 cuda without CUDA": (["--device", "cuda"], ("CUDA is not available (torch ", "hint: use --device cpu")),
    "24 cuda:9": (["--device", "cuda:9"], ("use --device cpu",)),
    "24 no such device": (["--device", "gpu"], ("no device `gpu`", "auto, cpu, cuda, cuda:N or mps")),
    "25 unknown loss": (
        sets("arms.kd=[{loss: soft_targt}]"),
        ("unknown loss 'soft_targt'", "did you mean `soft_target`?"),
    ),
    "25 unknown option of a loss": (sets("arms.distilled.0.options={skw: 1}"), ("has no option `skw`",)),
    "28 value that would run": (
        sets("train.lr=__import__('os').system('touch canary')"),
        ("`train.lr`: expected a number > 0, got \"__import__('os')",),
    ),
    "29 out is empty": (["--out", ""], ("--out is empty", "runs/first")),
    "29 out is the disk": (["--out", "/"], ("a run cannot own the whole disk", "runs/first")),
    "29 out is a file": (["--out", "recipe.yaml"], ("recipe.yaml is a file",)),
    "29 out within a file": (["--out", "recipe.yaml/run"], ("would lie in a file", "recipe.yaml")),
    "43 out too long": (["--out", "a" * 300], ("no run can be in 'aaa", "File name too long")),
    "43 path in the name": (sets("name=../x"), ("`name`: expected a name of at most 64 letters", "got '../x'")),
    "43 device in the name": (sets("name=CON"), ("'CON' cannot be the name of a file everywhere",)),
    "43 path in an arm": (sets("arms={../x: [{loss: soft_target}]}"), ("the name '../x' in `arms` cannot be used",)),
    "set without a value": (sets("train.lr"), ("an override is `key=value`", "such as --set train.epochs=3")),
    "set without a key": (sets("=3"), ("an override is `key=value`",)),
    "set below a number": (sets("train.lr.x=3"), ("`train.lr` is 0.01: nothing lies below it",)),
    "set an open bracket": (sets("seeds=[1"), ("not valid YAML", "(--set seeds=[1)", "put quotes around the whole")),
    "set beyond a list": (sets("arms.distilled.7.weight=1"), ("`arms.distilled` has no item `7`", "items 0 … 0")),
    "seed that is none": (["--seed", "a"], ("`seeds.0`: expected a whole number", "got 'a'")),
    "seed twice": (["--seed", "3,3"], ("the seed 3 stands here twice",)),
    "67 model that is none": (sets("student.model=mpl"), ("unknown model 'mpl'", "did you mean `mlp`?")),
    "a teacher loaded and trained": (sets("teacher.weights=t.safetensors"), ("is loaded or trained, not both",)),
    "labels that are mixed": (
        sets("data.views.mixup=0.2", "arms.kd=[{loss: decoupled}]"),
        ("arm `kd` has a loss that needs one label per example", "turn them off"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FLAGS)
def test_a_wrong_flag(name: str, tmp_path: Path) -> None:
    if "cuda" in name and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    flags, says = FLAGS[name]
    Path("recipe.yaml").write_text(RECIPE)
    refused(call("run", "recipe.yaml", "--out", "out", "--quiet", *flags), 2, says)
    assert [entry.name for entry in tmp_path.iterdir()] == ["recipe.yaml"]


# what can be said only when models and optimizers are made; the exit code is 2
LATE: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "67 argument of a model": (sets("student.args.widht=3"), ("`mlp` takes no argument `widht`", "mean `width`?")),
    "67 type of an argument": (sets("student.args.width=4.5"), ("`width` of `mlp` is of the wrong type", "width=4.5")),
    "67 type of Hugging Face": (sets("student={model: 'hf:resnet81'}"), ("hf:resnet81", "did you mean `resnet`?")),
    "optimizer": (sets("train.optimizer=adamm"), ("no optimizer `adamm` (train.optimizer)", "did you mean `adam`?")),
    "option of it": (sets("train.optimizer_args.wd=1"), ("AdamW has no option `wd`", "weight_decay")),
    "scheduler": (sets("train.scheduler=cosin"), ("no scheduler `cosin`", "did you mean `cosine`?")),
    "37 code without --trust": (sets("student.model=canary:make"), ("a recipe names code", "run it with --trust")),
    "37 teacher without --trust": (sets("teacher.model=canary:make"), ("given     canary:make", "--trust")),
    "no such function": ([*sets("student.model=canary:mak"), "--trust"], ("`canary` has no `mak`", "`make`?")),
    "no such module": ([*sets("student.model=canray:make"), "--trust"], ("there is no module `canray`", "PYTHONPATH")),
}


@pytest.mark.parametrize("name", LATE)
def test_a_wrong_name_of_a_part(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags, says = LATE[name]
    if "Hugging Face" in name:
        pytest.importorskip("transformers")
    Path("recipe.yaml").write_text(RECIPE)
    Path("canary.py").write_text("from pathlib import Path\nPath('sang').touch()\ndef make(**_): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "canary", raising=False)
    refused(call("run", "recipe.yaml", "--out", "out", "--quiet", *flags), 2, says)
    assert Path("sang").exists() == (name == "no such function")
    nothing_stands_in_the_way(Path("out"))


def nothing_stands_in_the_way(out: Path) -> None:
    """The folder may have been held, but the command that mends the fault finds no other run in it."""
    assert not out.exists() or {entry.name for entry in out.iterdir()} <= {".lock"}


def test_the_mended_command_runs_in_the_same_folder() -> None:
    Path("recipe.yaml").write_text(RECIPE)
    assert call("run", "recipe.yaml", "--out", "out", "-q", *sets("student.args.widht=3")).code == 2
    assert call("run", "recipe.yaml", "--out", "out", "-q").code == 0


# ---- data ------------------------------------------------------------------------------------------------------------


def images(root: str, **classes: int) -> None:
    for number, (name, count) in enumerate(classes.items()):
        folder = Path(root, name)
        folder.mkdir(parents=True)
        for index in range(count):
            Image.fromarray(np.full((8, 8), 40 * number + index, np.uint8)).save(folder / f"{index}.png")


def arrays(x: object, y: object = None) -> None:
    np.savez("set.npz", x=np.asarray(x), y=np.arange(60) % 3 if y is None else np.asarray(y))


def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)


def odd_images() -> None:
    images("set", a=9, b=9)
    Path("set/b/text.png").write_text("hello")
    Path("set/b/empty.jpg").touch()


def with_nan() -> None:
    x = noise()
    x[3, 2] = np.nan
    arrays(x)


# how it comes about, the source, the exit code, what the message says
DATA: dict[str, tuple[Callable[[], object], str, int, tuple[str, ...]]] = {
    "31 no path": (lambda: None, "folder", 2, ("the source `folder` needs a path (data.path)",)),
    "31 missing": (lambda: None, "folder set", 3, ("set does not exist (data.path)", "a folder with one sub-folder")),
    "32 empty": (lambda: Path("set").mkdir(), "folder set", 3, ("set holds no class folders", "at least two folders")),
    "33 one class": (lambda: images("set", cat=3), "folder set", 3, ("set holds a single class", "only cat")),
    "34 class without images": (lambda: images("set", a=9, b=0), "folder set", 3, ("hold no images", "given     b")),
    "35 classes differ": (
        lambda: (images("set/train", a=5, b=5), images("set/val", a=5, c=5)),
        "folder set",
        3,
        ("have different classes", "only in val: c; only in train: b"),
    ),
    "38 no images": (odd_images, "folder set", 3, ("2 of 20 files", "text.png: not an image", "empty.jpg: an empty")),
    "46 objects": (lambda: arrays([{}] * 60), "arrays set.npz", 3, ("holds Python objects", "they were not")),
    "47 unscaled": (
        lambda: arrays(np.random.default_rng(0).uniform(0, 255, (60, 1, 8, 8))),
        "arrays set.npz",
        3,
        ("look unscaled: max 25", "hint: pass them as uint8, or divide by 255"),
    ),
    "48 NaN": (with_nan, "arrays set.npz", 3, ("1 of 60 examples hold NaN", "row 3")),
    "50 too few": (lambda: arrays(noise()[:3], [0, 1, 2]), "arrays set.npz", 3, ("3 examples are too few",)),
    "no archive": (lambda: Path("set.npz").write_text("x"), "arrays set.npz", 5, ("set.npz is not a whole .npz",)),
    "unknown source": (lambda: None, "digit", 2, ("unknown data source 'digit'", "did you mean `digits`?")),
}


@pytest.mark.parametrize("name", DATA)
def test_wrong_data(name: str) -> None:
    make, source, code, says = DATA[name]
    make()
    kind, _, path = source.partition(" ")
    Path("recipe.yaml").write_text(RECIPE)
    words = sets(f"data.source={kind}", *([f"data.path={path}"] if path else []))
    refused(call("run", "recipe.yaml", "--out", "out", "--quiet", *words), code, says)
    assert not Path("out").exists()


# ---- the way the command is called -----------------------------------------------------------------------------------

COMMANDS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "18 missing": (["run", "recpie.yaml"], ("no such recipe: recpie.yaml", "did you mean recipe.yaml?")),
    "18 built-in mistyped": (["run", "digist"], ("no such recipe: digist", "did you mean `digits`?")),
    "18 folder": (["run", "."], (". is a folder, not a recipe", "did you mean recipe.yaml?")),
    "18 nothing": (["run"], ("Missing argument 'RECIPE'", "tutelage run --help")),
    "22 command": (["rnu", "digits"], ("no command `rnu`", "did you mean `run`?")),
    "too many": (["run", "digits", "more"], ("unexpected extra argument (more)",)),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_command(name: str) -> None:
    words, says = COMMANDS[name]
    Path("recipe.yaml").write_text(RECIPE)
    refused(call(*words), 2, says)


def test_without_arguments_it_helps_with_an_example() -> None:
    outcome = call()
    assert (outcome.code, outcome.err) == (0, "")
    assert "tutelage run digits --out runs/digits" in outcome.out
