"""Models: what each net promises, how a name becomes a model, and how every wrong name or argument is answered."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tutelage.errors import DamagedError, InputError, MissingExtraError, ModelError
from tutelage.models import NETS, Classifier, ModelSpec, build, fold_batchnorm, parameter_count, state_digest

IMAGE = (1, 28, 28)
SCALE = {"mean": [0.3], "std": [0.35]}
TINY: dict[str, object] = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}


def make(
    name: str, shape: tuple[int, ...] = IMAGE, classes: int = 10, trust: bool = False, **args: object
) -> Classifier:
    return build(ModelSpec(name, args), input_shape=shape, classes=classes, trust=trust, **SCALE)


# Nets

NUMBERS = [name for name, info in NETS.items() if info.reads != "tokens"]  # the others: tests/test_text_nets.py


@pytest.mark.parametrize("name", NETS)
def test_the_catalogue_states_the_parameters_of_every_net(name: str) -> None:
    net = NETS[name].make(IMAGE, 10) if name in NUMBERS else NETS[name].make((64,), 10, vocabulary=8000)
    assert parameter_count(net) == NETS[name].parameters


def test_the_catalogue_is_sorted_and_reads_its_defaults_from_the_nets() -> None:
    assert list(NETS) == sorted(NETS)
    assert NETS["cnn"].args == {"width": 16, "depth": 3, "dropout": 0.0}
    assert all("dropout" in info.args and info.line and info.reads for info in NETS.values())


@pytest.mark.parametrize(
    ("name", "shape"),
    [(name, shape) for name in NUMBERS for shape in [IMAGE, (1, 8, 8), (3, 32, 48)]]
    + [(name, (12, 5)) for name in ("gru", "mlp", "transformer")]
    + [("mlp", (20,))],
)
def test_a_net_answers_and_every_weight_of_it_learns(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = make(name, shape, classes=7)
    answer = model(torch.rand(5, *shape))
    assert answer.shape == (5, 7)
    assert answer.dtype == torch.float32
    answer.square().sum().backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())]
    assert still == []


@pytest.mark.parametrize("name", NUMBERS)
def test_in_eval_mode_an_answer_does_not_depend_on_the_others_of_its_batch(name: str) -> None:
    torch.manual_seed(0)
    model = make(name, dropout=0.5).eval()
    x = torch.rand(6, *IMAGE)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[2:4], model(x[2:4]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NUMBERS)
def test_dropout_acts_in_training_only(name: str) -> None:
    torch.manual_seed(0)
    model = make(name, dropout=0.5)
    for module in model.modules():  # batch statistics would make any two calls alike or not for their own reasons
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    x = torch.rand(4, *IMAGE)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_convolutions_before_a_batch_norm_have_no_bias() -> None:
    for name in ("cnn", "dscnn"):
        assert all(m.bias is None for m in make(name).modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(("side", "last"), [(4, 4), (8, 4), (28, 7), (32, 4), (224, 28)])
def test_a_stage_halves_the_picture_while_four_pixels_remain(side: int, last: int) -> None:
    net = NETS["cnn"].make((1, side, side), 10, width=2)
    assert net.get_submodule("stages")(torch.zeros(2, 1, side, side)).shape[2:] == (last, last)


def test_the_gru_reads_rows_from_top_to_bottom() -> None:
    torch.manual_seed(0)
    model = make("gru", (2, 6, 5)).eval()
    x = torch.rand(1, 2, 6, 5)
    rows = x.sub(0.3).div(0.35).transpose(1, 2).reshape(1, 6, 10)
    state = model.get_submodule("net.recurrent")(rows)[1][-1]
    torch.testing.assert_close(model(x), model.get_submodule("net.head")(state))


def test_a_transformer_without_its_positions_would_not_see_the_order() -> None:
    torch.manual_seed(0)
    model = make("transformer", (6, 5)).eval()
    x = torch.rand(2, 6, 5)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert not torch.allclose(model(x), model(x[:, order]), atol=1e-5)
    with torch.no_grad():
        model.get_parameter("net.positions").zero_()
    torch.testing.assert_close(model(x), model(x[:, order]), rtol=1e-4, atol=1e-5)


# Normalisation


def test_normalisation_is_part_of_the_model() -> None:
    model = build(ModelSpec("mlp"), input_shape=(3, 4, 4), classes=2, mean=[0.1, 0.2, 0.3], std=[1, 2, 4])
    x = torch.rand(5, 3, 4, 4)
    expected = torch.stack([(x[:, c] - m) / s for c, (m, s) in enumerate([(0.1, 1), (0.2, 2), (0.3, 4)])], 1)
    torch.testing.assert_close(model.normalise(x), expected)
    assert torch.equal(model(x), model.net(model.normalise(x)))
    assert {"normalise.mean", "normalise.std"} <= set(model.state_dict())
    assert model.normalise.mean.shape == (3, 1, 1)


@pytest.mark.parametrize(("shape", "count"), [((7,), 7), ((4, 7), 7)])
def test_features_are_scaled_one_by_one(shape: tuple[int, ...], count: int) -> None:
    mean, std = [float(i) for i in range(count)], [1.0 + i for i in range(count)]
    model = build(ModelSpec("mlp"), input_shape=shape, classes=2, mean=mean, std=std)
    x = torch.rand(3, *shape)
    torch.testing.assert_close(model.normalise(x), (x - torch.tensor(mean)) / torch.tensor(std))


@pytest.mark.parametrize(
    ("mean", "std"),
    [([0.5, 0.5], [1.0]), ([0.5], [0.0]), ([0.5], [-1.0]), ([float("nan")], [1.0]), ([], [1.0]), ([0.5], [1.0, 1.0])],
)
def test_scaling_that_cannot_be_is_refused(mean: list[float], std: list[float]) -> None:
    with pytest.raises(InputError, match=r"mean|std|deviation"):
        build(ModelSpec("mlp"), input_shape=IMAGE, classes=10, mean=mean, std=std)


# Names and arguments


@pytest.mark.parametrize(
    ("name", "args", "error", "words"),
    [
        ("cnnn", {}, InputError, ["there is no model `cnnn`", "did you mean `cnn`?"]),
        ("resnet81", {}, InputError, ["`resnet81`", "cnn, dscnn, gru, mlp, transformer", "hf:<type>"]),
        ("cnn", {"widht": 3}, InputError, ["no argument `widht`", "width (whole number, 16)", "did you mean `width`?"]),
        ("cnn", {"width": 2.5}, InputError, ["`width` of `cnn`", "width=2.5", "dropout (number, 0.0)"]),
        ("cnn", {"width": "16"}, InputError, ["width='16'", "whole number"]),
        ("cnn", {"width": True}, InputError, ["width=True", "whole number"]),
        ("cnn", {"width": 0}, InputError, ["width=0", "from 1"]),
        ("mlp", {"depth": -1}, InputError, ["depth=-1", "from 0"]),
        ("mlp", {"dropout": 1}, InputError, ["dropout=1", "[0, 1)"]),
        ("gru", {"dropout": -0.1}, InputError, ["dropout=-0.1", "[0, 1)"]),
        ("transformer", {"width": 50}, ModelError, ["width=50, heads=4", "hint: width=52"]),
        ("transformer", {"patch": 5}, ModelError, ["patches of 5 pixels", "28×28", "hint: patch=4"]),
        ("transformer", {"patch": 29}, ModelError, ["patches of 29 pixels", "hint: patch=28"]),
        ("mlp", {"width": 10**13}, ModelError, ["`mlp` cannot be made"]),
    ],
)
def test_a_wrong_name_or_argument_is_answered_with_what_would_be_right(
    name: str, args: dict[str, object], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        make(name, **args)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("name", "shape"), [("cnn", (20,)), ("dscnn", (12, 5)), ("gru", (20,)), ("transformer", (20,))]
)
def test_a_net_that_cannot_read_the_data_says_what_it_reads(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=f"`{name}` reads") as caught:
        make(name, shape)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize(("shape", "classes"), [((), 10), ((1, 0, 28), 10), (IMAGE, 1)])
def test_a_classifier_needs_a_shape_and_two_classes(shape: tuple[int, ...], classes: int) -> None:
    with pytest.raises(InputError, match="at least two classes"):
        make("mlp", shape, classes)


def test_a_model_is_built_in_train_mode_and_leaves_the_random_numbers_to_its_weights() -> None:
    torch.manual_seed(0)
    NETS["cnn"].make(IMAGE, 10)
    expected = torch.rand(3)
    torch.manual_seed(0)
    model = make("cnn")
    assert torch.equal(torch.rand(3), expected)
    assert all(module.training for module in model.modules())
    assert int(model.get_buffer("net.stages.0.1.num_batches_tracked")) == 0


# Functions of the user's own

CODE = """
import torch
from torch import nn

not_callable = 3

def good(input_shape, classes, width=4):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.Linear(width, classes))

def wrong_classes(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(1000))

def returns_shape(input_shape, classes):
    return input_shape

def breaks(input_shape, classes):
    raise KeyError("lost")

def misfits(input_shape, classes):
    return nn.Linear(3, classes)

class Tuple(nn.Module):
    def forward(self, x):
        return x, x

def answers_tuple(input_shape, classes):
    return Tuple()

class Noisy(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(784, classes)

    def forward(self, x):
        return self.head(x.flatten(1) + torch.rand(1))

def noisy(input_shape, classes):
    return Noisy(classes)

class Whole(nn.Module):
    def forward(self, x):
        return torch.zeros(len(x), 10, dtype=torch.int64)

def answers_integers(input_shape, classes):
    return Whole()
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "ownnets.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w').close()\n{CODE}")
    (tmp_path / "needy.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "broken.py").write_text("def make(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("ownnets", "needy", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_code_named_by_a_recipe_runs_only_when_trusted(own_code: Path) -> None:
    with pytest.raises(InputError, match="a recipe names code") as caught:
        make("ownnets:good")
    assert "--trust" in str(caught.value)
    assert not (own_code / "canary").exists()
    model = make("ownnets:good", trust=True, width=6)
    assert (own_code / "canary").exists()
    assert parameter_count(model) == 784 * 6 + 6 + 6 * 10 + 10


@pytest.mark.usefixtures("own_code")
@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("nowhere:make", InputError, "there is no module `nowhere`"),
        ("ownnets.deeper:make", InputError, "there is no module `ownnets.deeper`"),
        ("needy:make", InputError, "needs the missing module `a_module_that_is_not_there`"),
        ("broken:make", ModelError, "`broken` fails on import: SyntaxError"),
        ("ownnets:goood", InputError, "did you mean `good`?"),
        ("ownnets:not_callable", InputError, "is no function"),
        ("ownnets:", InputError, "package.module:function"),
        ("C:\\nets.py", InputError, "package.module:function"),
        ("ownnets:returns_shape", ModelError, "returns no model"),
        ("ownnets:breaks", ModelError, "fails: KeyError: 'lost'"),
        ("ownnets:misfits", ModelError, "cannot read the data"),
        ("ownnets:answers_tuple", ModelError, "answers no logits"),
        ("ownnets:answers_integers", ModelError, "answers no logits"),
        ("ownnets:wrong_classes", ModelError, "student answers (2, 1000), the data has 10 classes"),
    ],
)
def test_every_fault_of_a_named_function_is_told_apart(name: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        make(name, trust=True)
    assert words in str(caught.value)


@pytest.mark.usefixtures("own_code")
def test_the_check_on_blank_examples_draws_no_random_numbers_of_the_run() -> None:
    torch.manual_seed(0)
    nn.Linear(784, 10)
    expected = torch.rand(3)
    torch.manual_seed(0)
    make("ownnets:noisy", trust=True)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.usefixtures("own_code")
def test_arguments_that_a_function_does_not_take_are_named() -> None:
    with pytest.raises(ModelError, match="unexpected keyword argument 'depth'") as caught:
        make("ownnets:good", trust=True, depth=2)
    assert "depth=2" in str(caught.value)


# Hugging Face


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("transformers")
    place = tmp_path / "resnet"
    model: Any = make("hf:resnet", (3, 32, 32), **TINY).net
    model.model.save_pretrained(place)
    return place


def edit(path: Path, **entries: object) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | entries))


def test_a_type_is_built_from_its_config_for_this_data() -> None:
    pytest.importorskip("transformers")
    model = make("hf:resnet", IMAGE, classes=4, **TINY)
    assert model(torch.rand(3, *IMAGE)).shape == (3, 4)
    args = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "patch_size": 7}
    patches = make("hf:deit", IMAGE, classes=4, **args)
    assert patches(torch.rand(3, *IMAGE)).shape == (3, 4)


@pytest.mark.parametrize(
    ("name", "args", "shape", "error", "words"),
    [
        ("hf:resnett", {}, IMAGE, InputError, "did you mean `resnet`?"),
        ("hf:bert", {}, IMAGE, InputError, "no image classifier"),
        ("hf:resnet", {"hiden_sizes": [8]}, IMAGE, InputError, "did you mean `hidden_sizes`?"),
        (
            "hf:resnet",
            {"attn_implementation": "someone/kernels"},
            IMAGE,
            InputError,
            "no argument `attn_implementation`",
        ),
        ("hf:resnet", {"trust_remote_code": True}, IMAGE, InputError, "no argument `trust_remote_code`"),
        ("hf:resnet", {"embedding_size": "big"}, IMAGE, ModelError, "expected int, got str"),
        ("hf:resnet", {}, (20,), ModelError, "reads images"),
        ("hf:/no/such/folder", {}, IMAGE, ModelError, "there is no folder /no/such/folder"),
    ],
)
def test_what_transformers_cannot_do_is_said_in_one_sentence(
    name: str, args: dict[str, object], shape: tuple[int, ...], error: type[Exception], words: str
) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(error) as caught:
        make(name, shape, **args)
    assert words in str(caught.value)


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"tutelage\[hf\]"):
        make("hf:resnet")


def test_a_folder_gives_its_weights_and_its_scaling(folder: Path) -> None:
    first, second = (make(f"hf:{folder}", (3, 32, 32)) for _ in range(2))
    assert state_digest(first) == state_digest(second)
    assert first.notices == []
    edit(folder / "preprocessor_config.json", image_mean=[0.5] * 3, image_std=[0.25] * 3, rescale_factor=1 / 255)
    scaled = make(f"hf:{folder}", (3, 32, 32))
    assert scaled.normalise.mean.flatten().tolist() == [0.5] * 3
    assert scaled.normalise.std.flatten().tolist() == [0.25] * 3
    assert "declares how its inputs are scaled" in scaled.notices[0]


def test_a_scaling_of_bytes_is_brought_to_inputs_between_zero_and_one(folder: Path) -> None:
    edit(folder / "preprocessor_config.json", do_normalize=False, do_rescale=False)
    assert make(f"hf:{folder}", (3, 32, 32)).normalise.std.flatten().tolist() == pytest.approx([1 / 255] * 3)
    edit(folder / "preprocessor_config.json", do_normalize=True, do_rescale=False, image_mean=[127.5], image_std=[51.0])
    model = make(f"hf:{folder}", (3, 32, 32))
    torch.testing.assert_close(model.normalise(torch.full((1, 3, 1, 1), 0.9)).flatten(), torch.full((3,), 2.0))


def test_a_folder_with_other_classes_is_refused_unless_its_head_is_to_be_new(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"student answers \(2, 10\), the data has 7 classes"):
        make(f"hf:{folder}", (3, 32, 32), classes=7)
    model = make(f"hf:{folder}", (3, 32, 32), classes=7, new_head=True)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert "new and not trained yet" in model.notices[0]
    with pytest.raises(InputError, match="new_head: true or false"):
        make(f"hf:{folder}", (3, 32, 32), depth=2)


def truncate(place: Path) -> None:
    path = place / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def spoil(place: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(place / "model.safetensors")
    tensors["classifier.1.bias"][3] = float("nan")
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})


def drop(place: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(place / "model.safetensors")
    del tensors["resnet.embedder.embedder.convolution.weight"]
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})


def only_pickle(place: Path) -> None:
    (place / "model.safetensors").rename(place / "pytorch_model.bin")


def own_type(place: Path) -> None:
    (place / "evil.py").write_text(f"open({str(place / 'canary')!r}, 'w').close()\n")
    edit(place / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.C"})


def no_json(place: Path) -> None:
    (place / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (truncate, DamagedError, "cannot be read"),
        (spoil, DamagedError, "NaN or infinity in 1 of"),
        (drop, ModelError, "not complete: 1 tensors missing"),
        (only_pickle, ModelError, "model.safetensors"),
        (own_type, ModelError, "code from a model folder is never run"),
        (no_json, ModelError, "not a valid JSON file"),
    ],
)
def test_a_bad_folder_is_refused(
    folder: Path, damage: Callable[[Path], None], error: type[Exception], words: str
) -> None:
    damage(folder)
    with pytest.raises(error) as caught:
        make(f"hf:{folder}", (3, 32, 32))
    assert words in str(caught.value)
    assert not (folder / "canary").exists()


def test_a_folder_for_colour_does_not_read_grey(folder: Path) -> None:
    with pytest.raises(ModelError, match="reads images of 3 channels, the data has 1"):
        make(f"hf:{folder}", IMAGE)


def test_a_folder_cannot_bring_a_kernel_or_code_for_a_known_type(folder: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(folder / 'canary')!r}, 'w').close()\n")
    edit(
        folder / "config.json",
        attn_implementation="someone/kernels",
        _attn_implementation_internal="someone/kernels",
        auto_map={"AutoConfig": "evil.C", "AutoModelForImageClassification": "evil.M"},
    )
    model: Any = make(f"hf:{folder}", (3, 32, 32)).net
    assert model.model.config._attn_implementation in ("eager", "sdpa")
    assert not (folder / "canary").exists()


def test_the_hub_out_of_reach_leaves_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="transformers cannot load nobody/nothing") as caught:
        make("hf:nobody/nothing", (3, 32, 32))
    assert "hf:/path/to/it" in str(caught.value)


def test_transformers_is_left_as_chatty_as_it_was(folder: Path) -> None:
    from transformers.utils import logging

    make(f"hf:{folder}", (3, 32, 32))
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_info()
    try:
        make(f"hf:{folder}", (3, 32, 32))
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled() == before[1]
    finally:
        logging.set_verbosity(before[0])


# Folding


def unsettle(module: nn.Module) -> nn.Module:
    """Batch norms as training might leave them, far from the identity that they begin as."""
    torch.manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(norm.weight, -2.0, 2.0)
            nn.init.normal_(norm.bias)
            if norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.3, 3.0)
    return module


def norms(module: nn.Module) -> int:
    return sum(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in module.modules())


def agree(one: nn.Module, other: nn.Module, x: Tensor) -> bool:
    with torch.no_grad():
        expected, answer = one.eval()(x), other(x)
    return float((expected - answer).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("name", ["cnn", "dscnn"])
def test_folding_keeps_the_answers_and_leaves_the_original_alone(name: str) -> None:
    model = unsettle(make(name))
    before = state_digest(model)
    folded = fold_batchnorm(model)
    assert model.training
    assert state_digest(model) == before
    assert norms(folded) == 0
    assert norms(model) > 0
    assert not any(module.training for module in folded.modules())
    assert [n for n, _ in folded.named_modules()] == [n for n, _ in model.named_modules()]
    assert agree(model, folded, torch.rand(16, *IMAGE))


@pytest.mark.parametrize("name", ["mlp", "gru", "transformer"])
def test_without_batch_norms_folding_is_a_copy(name: str) -> None:
    model = make(name)
    folded = fold_batchnorm(model)
    assert folded is not model
    assert state_digest(folded) == state_digest(model)


class Branch(nn.Module):
    """A convolution whose output is used twice, one that is called twice, and one whose weight is read."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        if self.kind == "used twice":
            y = self.norm(y) + y
        elif self.kind == "called twice":
            y = self.norm(self.conv(y))
        elif self.kind == "weight read":
            y = self.norm(y) + self.conv.weight.sum()
        elif self.kind == "normalised twice":
            y = self.norm(self.norm(y))
        elif self.kind == "untraceable":
            y = self.norm(y) if float(x.sum()) > -1e9 else y
        else:
            y = self.norm(y)
        return y


@pytest.mark.parametrize(
    "kind",
    ["used twice", "called twice", "weight read", "normalised twice", "untraceable", "hooked", "batch statistics"],
)
def test_what_the_graph_does_not_prove_is_not_folded(kind: str) -> None:
    model = unsettle(Branch(kind))
    if kind == "hooked":
        model.get_submodule("conv").register_forward_hook(lambda *_: None)
    if kind == "batch statistics":
        model.norm = nn.BatchNorm2d(3, track_running_stats=False)
    folded = fold_batchnorm(model)
    assert norms(folded) == 1
    assert agree(model, folded, torch.rand(4, 3, 8, 8))


def test_the_same_module_is_folded_where_nothing_forbids_it() -> None:
    model = unsettle(Branch("plain"))
    folded = fold_batchnorm(model)
    assert norms(folded) == 0
    assert agree(model, folded, torch.rand(4, 3, 8, 8))


def test_a_linear_layer_is_folded_only_where_its_input_is_surely_flat() -> None:
    flat = unsettle(nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4)))
    assert norms(fold_batchnorm(flat)) == 0
    assert agree(flat, fold_batchnorm(flat), torch.rand(5, 3, 4))
    # Here the batch norm means the six tokens, not the six features, and nothing in the graph tells them apart.
    tokens = unsettle(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)))
    assert norms(fold_batchnorm(tokens)) == 1
    assert agree(tokens, fold_batchnorm(tokens), torch.rand(5, 6, 4))
