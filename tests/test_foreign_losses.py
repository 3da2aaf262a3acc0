"""Losses from elsewhere: by the name that an installed package offers, or by their function with --trust."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import tutelage
from command_line import call
from foreign_parts import install
from tutelage import extensions, losses
from tutelage.errors import InputError, TutelageError
from tutelage.objective import Term

BUILT_IN = {name: getattr(losses, name) for name in losses.__all__}

GENTLE = '''
from tutelage.losses import logit_mse


def gentle(student_logits, teacher_logits, *, power=2.0):
    """A gentle distance between logits; (…, C) and (…, C) → ().

    Equation:
        mean over rows and classes of (z_s − z_t)²
    """
    assert power == 2.0
    return logit_mse(student_logits, teacher_logits)


def silent(student_logits):
    return student_logits.sum()


def reads_logits(logits):
    """Reads what no step provides."""


def reads_no_student(teacher_logits, labels):
    """Nothing that could learn."""


class Kind:
    """Not a function."""


number = 3
'''


class Elsewhere:
    """Packages in a folder of their own, on the path of this process and of those that it starts."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch, self.modules = folder, patch, set(sys.modules)
        self.count = 0

    def add(self, package: str, version: str, module: str, source: str, offers: Mapping[str, str]) -> Path:
        # A folder for each, since what is installed is looked up once for a path.
        self.count += 1
        folder = install(self.folder / f"site-{self.count}", package, version, module, source, offers)
        self.patch.syspath_prepend(str(folder))
        return folder


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = Elsewhere(tmp_path, monkeypatch)
    yield made
    for name in set(sys.modules) - made.modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def gentle(elsewhere: Elsewhere) -> Elsewhere:
    elsewhere.add("gentle-losses", "1.2", "gentle_losses", GENTLE, {"gentle": "gentle_losses:gentle"})
    return elsewhere


RECIPE = """
name: elsewhere
seeds: [0]
data: {source: digits, limit: 64}
teacher: {model: mlp, train: {epochs: 1, lr: 0.01}}
student: {model: mlp, args: {width: 8}}
arms:
  foreign: [{loss: LOSS, weight: 0.5, options: OPTIONS}]
  own: [{loss: logit_mse, weight: 0.5}]
train: {epochs: 1, lr: 0.01}
report: {bootstrap: 100, latency: false}
"""


def recipe(folder: Path, loss: str, options: str = "{}") -> str:
    path = folder / "elsewhere.yaml"
    path.write_text(RECIPE.replace("LOSS", loss).replace("OPTIONS", options), encoding="utf-8")
    return str(path)


# ---- names -----------------------------------------------------------------------------------------------------------


def test_names_are_known_without_importing_anything(gentle: Elsewhere) -> None:
    found = {offer.name: offer for offer in extensions.offers()}
    assert found["gentle"] == extensions.Offer("gentle", "gentle_losses:gentle", "gentle-losses", "1.2")
    call("methods", "soft_target")
    assert "gentle_losses" not in sys.modules


def test_reading_the_names_needs_no_torch(gentle: Elsewhere) -> None:
    path = os.pathsep.join([str(gentle.folder / "site-1"), str(Path(tutelage.__file__).parents[1])])
    script = (
        "import sys; from tutelage import extensions, recipe; print([o.name for o in extensions.offers()], "
        "'torch' in sys.modules, 'gentle_losses' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], env=os.environ | {"PYTHONPATH": path}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert "'gentle'" in done.stdout
    assert done.stdout.split("]")[1].split() == ["False", "False"]


def test_a_mistyped_name_is_told_the_nearest(gentle: Elsewhere, tmp_path: Path) -> None:
    done = call("run", recipe(tmp_path, "gentel"), "--out", str(tmp_path / "out"))
    assert done.code == 2
    assert "unknown loss 'gentel'" in done.err
    assert "did you mean `gentle`?" in done.err
    with pytest.raises(InputError, match="did you mean `gentle`"):
        extensions.loss_named("gentel", built_in=BUILT_IN)
    assert "did you mean `gentle`?" in call("methods", "gentel").err
    assert "gentle_losses" not in sys.modules


# ---- the listing -----------------------------------------------------------------------------------------------------


def test_a_listing_shows_them_under_their_package(gentle: Elsewhere) -> None:
    lines = call("methods").out.splitlines()
    begin = lines.index("gentle-losses 1.2:")
    assert lines[begin - 1] == ""
    name, _, line = lines[begin + 1].partition("  ")
    assert (name, line.strip()) == ("gentle", "A gentle distance between logits; (…, C) and (…, C) → ().")
    told = json.loads(call("methods", "--json").out)
    assert {*losses.__all__, "gentle"} <= set(told)


def test_its_card_has_what_the_others_have(gentle: Elsewhere) -> None:
    done = call("methods", "gentle")
    assert done.code == 0
    for said in (
        "Equation:\n    mean over rows and classes", "Reads: student_logits, teacher_logits", "Defaults: power=2.0",
        "- loss: gentle",
    ):  # fmt: skip
        assert said in done.out
    entry = json.loads(call("methods", "gentle", "--json").out)
    assert entry["family"] == "gentle-losses 1.2"


def test_a_broken_package_is_told_and_harms_nothing_else(gentle: Elsewhere, tmp_path: Path) -> None:
    gentle.add("broken-losses", "0.1", "broken_losses", "raise ImportError('no carving')", {"b": "broken_losses:b"})
    done = call("methods")
    assert done.code == 0
    assert "no carving" in done.out
    assert "A gentle distance" in done.out
    assert call("methods", "gentle").code == 0
    named = call("methods", "b")
    assert named.code == 2
    assert "`broken_losses` fails on import: ImportError: no carving (the loss `b` of the package" in named.err
    done = call("run", recipe(tmp_path, "b"), "--out", str(tmp_path / "out"))
    assert done.code == 2
    assert "(arms.foreign.0, the loss `b` of the package `broken-losses 0.1`)" in done.err


def test_one_without_a_docstring_is_listed_all_the_same(elsewhere: Elsewhere) -> None:
    elsewhere.add("quiet", "1", "quiet_losses", GENTLE, {"silent": "quiet_losses:silent"})
    assert json.loads(call("methods", "--json").out)["silent"] == "says nothing about itself"


# ---- what cannot be used ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("spoilt:reads_logits", "asks for `logits`, which no step provides"),
        ("spoilt:reads_no_student", "reads nothing of the student"),
        ("spoilt:Kind", "is no function"),
        ("spoilt:number", "is no function"),
        ("spoilt:gone", "`spoilt` has no `gone`"),
        ("nowhere.at.all:f", "there is no module `nowhere`"),
        ("spoilt", "a function is named by its module and its name"),
    ],
)
def test_what_no_term_can_be_made_of_is_refused_with_its_package(
    elsewhere: Elsewhere, function: str, says: str
) -> None:
    elsewhere.add("spoilt-losses", "3.0", "spoilt", GENTLE, {"bad": function})
    with pytest.raises(InputError) as caught:
        extensions.loss_named("bad", built_in=BUILT_IN)
    assert says in str(caught.value)
    assert "of the package `spoilt-losses 3.0`" in str(caught.value)


def test_a_module_that_ends_the_program_ends_only_itself(elsewhere: Elsewhere) -> None:
    elsewhere.add("leaving", "1", "leaving", "raise SystemExit(3)", {"leave": "leaving:leave"})
    with pytest.raises(InputError, match="`leaving` fails on import: SystemExit"):
        extensions.loss_named("leave", built_in=BUILT_IN)


def test_a_missing_dependency_is_named(elsewhere: Elsewhere) -> None:
    elsewhere.add("needing", "1", "needing", "import carving_tools", {"need": "needing:need"})
    with pytest.raises(InputError, match="`needing` needs the missing module `carving_tools`"):
        extensions.loss_named("need", built_in=BUILT_IN)


# ---- one name, several losses ----------------------------------------------------------------------------------------


def test_a_built_in_name_is_refused_only_where_it_is_named(elsewhere: Elsewhere, tmp_path: Path) -> None:
    elsewhere.add("usurper", "9", "usurper", GENTLE, {"logit_mse": "usurper:gentle"})
    assert extensions.loss_named("soft_target", built_in=BUILT_IN) is losses.soft_target
    with pytest.raises(InputError) as caught:
        extensions.loss_named("logit_mse", built_in=BUILT_IN)
    assert "the built-in one and `usurper:gentle` of `usurper 9`" in str(caught.value)
    assert "usurper" not in sys.modules  # refused by its name alone
    assert "squared" in call("methods", "logit_mse").out  # the card of the built-in one
    lines = json.loads(call("methods", "--json").out)
    assert "the built-in one" in lines["usurper:gentle"]
    both = call("run", recipe(tmp_path, "logit_mse"), "--out", str(tmp_path / "out"))
    assert both.code == 2
    assert "the name `logit_mse` means 2 losses (arms.foreign.0)" in both.err
    # Both stay within reach, by their functions.
    assert extensions.loss_named("tutelage.losses:logit_mse", built_in=BUILT_IN, trust=True) is losses.logit_mse
    assert extensions.loss_named("usurper:gentle", built_in=BUILT_IN, trust=True).__name__ == "gentle"


def test_two_packages_with_one_name_are_refused_with_both(gentle: Elsewhere) -> None:
    gentle.add("gentler", "2", "gentler", GENTLE, {"gentle": "gentler:gentle"})
    with pytest.raises(InputError) as caught:
        extensions.loss_named("gentle", built_in=BUILT_IN)
    assert "`gentle_losses:gentle` of `gentle-losses 1.2` and `gentler:gentle` of `gentler 2`" in str(caught.value)
    assert {"gentle_losses:gentle", "gentler:gentle"} <= set(json.loads(call("methods", "--json").out))


# ---- a run -----------------------------------------------------------------------------------------------------------


def test_a_run_learns_with_it_and_records_its_package(gentle: Elsewhere, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call("run", recipe(tmp_path, "gentle", "{power: 2.0}"), "--out", str(out), "--quiet")
    assert done.code == 0, done.err
    # The function is `logit_mse` by another name, so the two arms end with the same weights.
    foreign, own = (out / "students" / arm / "seed-0" / "student.safetensors" for arm in ("foreign", "own"))
    assert foreign.read_bytes() == own.read_bytes()
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["environment"]["gentle-losses"] == "1.2"
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["versions"]["gentle-losses"] == "1.2"
    assert "gentle-losses 1.2" in (out / "report.html").read_text(encoding="utf-8")
    (row,) = (model for model in report["models"] if model["name"] == "foreign")
    assert "0.5 · gentle (power = 2.0)" in json.dumps(row, ensure_ascii=False)


def test_an_option_that_it_does_not_take_is_told(gentle: Elsewhere, tmp_path: Path) -> None:
    done = call("run", recipe(tmp_path, "gentle", "{force: 2}"), "--out", str(tmp_path / "out"))
    assert done.code == 2
    assert "the loss `gentle` has no option `force` (arms.foreign.0)" in done.err
    assert "one of power" in done.err


def test_a_function_is_named_with_trust_only(elsewhere: Elsewhere, tmp_path: Path) -> None:
    home = elsewhere.add("unrelated", "1", "my_losses", GENTLE, {})
    path, out = recipe(tmp_path, '"my_losses:gentle"'), tmp_path / "out"
    refused = call("run", path, "--out", str(out))
    assert refused.code == 2
    assert "run it with --trust" in refused.err
    assert "my_losses" not in sys.modules
    assert not out.exists()
    done = call("run", path, "--out", str(out), "--quiet", "--trust")
    assert done.code == 0, done.err
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256((home / "my_losses.py").read_bytes()).hexdigest()
    assert manifest["environment"]["my_losses:gentle"] == f"SHA-256 {digest[:16]}"
    missing = call("run", recipe(tmp_path, '"my_losses:gentel"'), "--out", str(tmp_path / "other"), "--trust")
    assert missing.code == 2
    assert "did you mean `gentle`?" in missing.err


# ---- faults while it computes ----------------------------------------------------------------------------------------


def faulty(elsewhere: Elsewhere, body: str) -> Term:
    source = f"import torch\n\n\ndef fault(student_logits):\n    {body}\n"
    elsewhere.add("faulty-losses", "0.4", "faulty", source, {"fault": "faulty:fault"})
    return Term(extensions.loss_named("fault", built_in=BUILT_IN))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise ValueError('no such thing')", "fails: ValueError: no such thing"),
        ("return student_logits.sum(-1)", "Tensor of shape (4,)"),
        ("return student_logits.detach().sum()", "Tensor of shape (), which has no graph"),
        ("return float(student_logits.detach().sum())", "given     float"),
        ("return None", "given     NoneType"),
    ],
)
def test_its_fault_is_told_as_its_own(elsewhere: Elsewhere, body: str, says: str) -> None:
    term = faulty(elsewhere, body)
    with pytest.raises(TutelageError) as caught:
        term.loss(torch.zeros(4, 3, requires_grad=True))
    assert says in str(caught.value)
    assert "the loss `fault` of the package `faulty-losses 0.4`" in str(caught.value)


def test_a_value_without_a_graph_is_right_where_no_graph_is_wanted(elsewhere: Elsewhere) -> None:
    term = faulty(elsewhere, "return student_logits.sum()")
    logits = torch.ones(4, 3, requires_grad=True)
    with torch.no_grad():
        assert float(term.loss(logits.detach())) == 12.0
    assert term.name == "fault"
    term.loss(logits).backward()
    assert torch.equal(logits.grad, torch.ones(4, 3))


@pytest.mark.parametrize("fault", ["MemoryError()", "torch.OutOfMemoryError()"])
def test_full_memory_is_nobody_s_fault_and_passes(elsewhere: Elsewhere, fault: str) -> None:
    term = faulty(elsewhere, f"raise {fault}")
    with pytest.raises((MemoryError, torch.OutOfMemoryError)):
        term.loss(torch.zeros(4, 3, requires_grad=True))
