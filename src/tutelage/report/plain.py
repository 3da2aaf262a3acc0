"""How to use a student's file with torch and safetensors alone: a few lines of Python for each built-in net.

The lines read every size from the tensors themselves, so they stay true for any width and depth. They are text, since
writing a report needs no torch; the tests run them against the nets they describe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_START = """\
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

w = load_file({file})


def linear(x, name):
    return F.linear(x, w[f"{{name}}.weight"], w[f"{{name}}.bias"])

"""
_NORM = """
def norm_relu(x, name):
    scale, shift = w[f"{name}.weight"], w[f"{name}.bias"]
    return F.batch_norm(x, w[f"{name}.running_mean"], w[f"{name}.running_var"], scale, shift).relu()

"""
_HEAD = '''
def student(x):
    """(B, ...) with values in [0, 1] -> logits (B, classes)."""
    x = (x - w["normalise.mean"]) / w["normalise.std"]
'''
_MLP = """\
    x, layer = x.flatten(1), 1
    while f"net.hidden.{layer}.weight" in w:
        x, layer = linear(x, f"net.hidden.{layer}").relu(), layer + 3
    return linear(x, "net.head")
"""
_CNN = """\
    stage = 0
    while f"net.stages.{stage}.0.weight" in w:
        for part, stride in ((0, 2 if min(x.shape[2:]) >= 8 else 1), (3, 1)):
            x = F.conv2d(x, w[f"net.stages.{stage}.{part}.weight"], stride=stride, padding=1)
            x = norm_relu(x, f"net.stages.{stage}.{part + 1}")
        stage += 1
    return linear(x.mean((2, 3)), "net.head")
"""
_DSCNN = """\
    halve = lambda: 2 if min(x.shape[2:]) >= 8 else 1
    x = norm_relu(F.conv2d(x, w["net.stem.0.weight"], stride=halve(), padding=1), "net.stem.1")
    stage = 0
    while f"net.stages.{stage}.0.weight" in w:
        for part, stride in ((0, halve() if stage else 1), (4, 1)):
            name = f"net.stages.{stage}"
            x = F.conv2d(x, w[f"{name}.{part}.weight"], stride=stride, padding=1, groups=x.shape[1])
            x = norm_relu(F.conv2d(x, w[f"{name}.{part + 1}.weight"]), f"{name}.{part + 2}")
        stage += 1
    return linear(x.mean((2, 3)), "net.head")
"""
_RECURRENT = """
layers = {name.removeprefix("net.recurrent."): value for name, value in w.items() if "recurrent" in name}
width, features = layers["weight_hh_l0"].shape[1], layers["weight_ih_l0"].shape[1]
gru = torch.nn.GRU(features, width, sum("weight_ih" in name for name in layers), batch_first=True)
gru.load_state_dict(layers)

"""
_GRU = """\
    if x.dim() == 4:  # of a picture, its rows from top to bottom
        x = x.transpose(1, 2).flatten(2)
    with torch.no_grad():
        return linear(gru(x)[0][:, -1], "net.head")
"""
_LAYER_NORM = """
def norm(x, name):
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

"""
_TRANSFORMER = """\
    if x.dim() == 4:  # of a picture, square patches
        side = w["net.embed.weight"].shape[-1]
        x = F.conv2d(x, w["net.embed.weight"], w["net.embed.bias"], stride=side).flatten(2).transpose(1, 2)
    else:
        x = linear(x, "net.embed")
    x, block = x + w["net.positions"], 0
    while (name := f"net.blocks.{block}") + ".joined.weight" in w:
        mixed = linear(norm(x, f"{name}.norm_attention"), f"{name}.query_key_value")
        query, key, value = mixed.unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + linear(mixed, f"{name}.joined")
        x = x + linear(F.gelu(linear(norm(x, f"{name}.norm_mlp"), f"{name}.mlp.0")), f"{name}.mlp.2")
        block += 1
    return linear(norm(x, "net.norm").mean(1), "net.head")
"""
_OWN = """\
from safetensors.torch import load_file

w = load_file({file})
net = ...  # the student's network, built by the code that it comes from
net.load_state_dict({{name.removeprefix("net."): value for name, value in w.items() if name.startswith("net.")}})


def student(x):  # values in [0, 1] -> what the network answers
    return net.eval()((x - w["normalise.mean"]) / w["normalise.std"])
"""
NETS: dict[str, tuple[str, str]] = {  # what stands before the function, and its body
    "mlp": ("", _MLP),
    "cnn": (_NORM, _CNN),
    "dscnn": (_NORM, _DSCNN),
    "gru": (_RECURRENT, _GRU),
    "transformer": (_LAYER_NORM, _TRANSFORMER),
}
_HEADS = 4  # of a transformer whose recipe names no other number


def snippet(file: str, model: str | None, args: Mapping[str, Any]) -> str:
    """Python that turns a student's file into a function, without this library.

    Args:
        file: where the weights lie, from the folder of the run.
        model: the student's model as its recipe names it; of any but a built-in net only the weights can be read.
        args: its arguments, for the one that no tensor tells: the heads of a transformer.
    """
    quoted = '"' + file.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if model not in NETS:
        return _OWN.format(file=quoted)
    before, body = NETS[model]
    heads = args.get("heads", _HEADS)
    return _START.format(file=quoted) + before + _HEAD + body.replace("HEADS", str(heads))
