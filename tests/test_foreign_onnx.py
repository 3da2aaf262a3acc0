"""ONNX files of anybody as teachers: shapes, names of inputs and outputs, and all that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from foreign_models import batch, batch_of, close, digits, same_live_and_stored, softmax
from tutelage.errors import DamagedError, InputError, ModelError
from tutelage.teachers import as_teacher
from tutelage.teachers.foreign import open_foreign

NAMES = digits().train.classes
WEIGHTS = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)


def written(
    path: Path,
    nodes: list[Any],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any]]],
    constants: dict[str, Any] | None = None,
) -> Path:
    def told(parts: dict[str, tuple[int, list[Any]]]) -> list[Any]:
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in parts.items()]

    kept = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", told(inputs), told(outputs), initializer=kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return path


def linear(path: Path, shape: list[Any], *, ends: str = "", kind: int = TensorProto.FLOAT) -> Path:
    """Flatten, multiply, and where it says so a softmax."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        *([helper.make_node(ends, ["logits"], ["y"])] if ends else []),
    ]
    out = {"y" if ends else "logits": (kind, ["n", 10])}
    return written(path, nodes, {"x": (kind, shape)}, out, {"w": WEIGHTS})


def opened(path: Path, **args: Any) -> Any:
    return open_foreign(f"onnx:{path}", args, classes=NAMES)


def expected(shape: tuple[int, ...] = (64,)) -> Any:
    return batch_of().inputs["x"].flatten(1).numpy() @ WEIGHTS


def test_a_student_has_the_same_bits_live_and_stored(tmp_path: Path) -> None:
    same_live_and_stored(opened(linear(tmp_path / "m.onnx", ["n", 1, 8, 8], ends="Softmax")), tmp_path)


@pytest.mark.parametrize("shape", [["n", 1, 8, 8], ["n", 64], [None, 8, 8], [4, 1, 8, 8], [1, 64]])
def test_inputs_are_given_the_shape_that_it_reads(shape: list[Any], tmp_path: Path) -> None:
    teacher = opened(linear(tmp_path / "m.onnx", shape))
    close(teacher.answer(batch_of()).logits.numpy(), expected(), 1e-5)


def test_channels_last_are_found_or_said(tmp_path: Path) -> None:
    pictures = torch.rand(5, 3, 4, 6)
    nodes = [helper.make_node("ReduceMean", ["x"], ["logits"], axes=[1, 2], keepdims=0)]
    for name, shape in (("known", ["n", 4, 6, 3]), ("open", ["n", "a", "b", "c"])):
        written(
            tmp_path / f"{name}.onnx", nodes, {"x": (TensorProto.FLOAT, shape)},
            {"logits": (TensorProto.FLOAT, ["n", 3])},
        )  # fmt: skip
    names = ["r", "g", "b"]
    for name, args in (("known", {}), ("open", {"layout": "NHWC"})):
        teacher = open_foreign(f"onnx:{tmp_path / name}.onnx", args, classes=names)
        close(teacher.answer(batch(pictures)).logits.numpy(), pictures.mean((2, 3)).numpy(), 1e-5)


def test_probabilities_are_seen_and_come_back(tmp_path: Path) -> None:
    teacher = opened(linear(tmp_path / "m.onnx", ["n", 64], ends="Softmax"))
    close(softmax(teacher.answer(batch_of()).logits), torch.tensor(expected()).softmax(-1).numpy(), 1e-5)


def tokens(path: Path, further: list[str]) -> Path:
    """The sum of the embeddings of all tokens that count; with masks and segments beside them."""
    table = np.random.default_rng(1).normal(size=(9, 10)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["all"]),
        helper.make_node("Cast", [further[0]], ["as_float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["as_float", "two"], ["wide"]),
        helper.make_node("Mul", ["all", "wide"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["logits"], keepdims=0),
    ]
    names = ["input_ids", *further]
    kinds = {name: (TensorProto.INT64, ["n", "l"]) for name in names}
    constants = {"table": table, "one": np.array([1]), "two": np.array([2])}
    return written(path, nodes, kinds, {"logits": (TensorProto.FLOAT, ["n", 10])}, constants)


def test_tokens_with_their_mask(tmp_path: Path) -> None:
    ids = torch.tensor([[3, 4, 5, 0], [8, 0, 0, 0]], dtype=torch.int32)
    teacher = opened(tokens(tmp_path / "m.onnx", ["attention_mask", "token_type_ids"]))
    table = np.random.default_rng(1).normal(size=(9, 10)).astype(np.float32)
    wanted = np.stack([table[[3, 4, 5]].sum(0), table[8]])
    close(teacher.answer(batch(ids)).logits.numpy(), wanted, 1e-5)
    with pytest.raises(InputError, match=r"2 inputs that could be meant(.|\n)*lengths"):
        opened(tokens(tmp_path / "other.onnx", ["lengths"]))
    with pytest.raises(InputError, match="reads more than one view can say"):
        opened(tmp_path / "other.onnx", input="input_ids")
    with pytest.raises(InputError, match="did you mean `input_ids`"):
        opened(tmp_path / "other.onnx", input="input_id")


def test_outputs_are_chosen_by_name_or_there_is_only_one(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        helper.make_node("Neg", ["logits"], ["other"]),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    kinds = {"logits": (TensorProto.FLOAT, ["n", 10]), "other": (TensorProto.FLOAT, ["n", 10])}
    label = {"label": (TensorProto.INT64, ["n"])}
    reads = {"x": (TensorProto.FLOAT, ["n", 1, 8, 8])}
    both = written(tmp_path / "both.onnx", nodes, reads, kinds | label, {"w": WEIGHTS})
    with pytest.raises(InputError, match=r"2 outputs that could be meant(.|\n)*output: logits"):
        opened(both)
    close(opened(both, output="other").answer(batch_of()).logits.numpy(), -expected(), 1e-5)
    close(softmax(opened(both, output="label", gives="classes").answer(batch_of()).logits).argmax(-1),
          expected().argmax(-1))  # fmt: skip
    with pytest.raises(InputError, match="has no output `logit`"):
        opened(both, output="logit")
    one = written(tmp_path / "one.onnx", nodes, reads, {"logits": kinds["logits"], **label}, {"w": WEIGHTS})
    assert opened(both, output="logits").fingerprint() != opened(one).fingerprint()
    close(opened(one).answer(batch_of()).logits.numpy(), expected(), 1e-5)


def test_a_session_from_python(tmp_path: Path) -> None:
    import onnxruntime

    path = linear(tmp_path / "m.onnx", ["n", 64])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    teacher = as_teacher(session, classes=NAMES)
    close(teacher.answer(batch_of()).logits.numpy(), expected(), 1e-5)
    assert teacher.fingerprint() == opened(path).fingerprint()
    from_bytes = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    assert as_teacher(from_bytes).fingerprint() != teacher.fingerprint()


def test_files_and_data_that_do_not_fit(tmp_path: Path) -> None:
    mean = [helper.make_node("ReduceMean", ["x"], ["logits"], axes=[2, 3], keepdims=0)]
    kinds = {"x": (TensorProto.FLOAT, ["n", 1, 28, 28])}, {"logits": (TensorProto.FLOAT, ["n", 1])}
    path = written(tmp_path / "m.onnx", mean, *kinds)
    with pytest.raises(ModelError, match=r"reads other inputs(.|\n)*\(1, 28, 28\)"):
        opened(path).answer(batch_of())
    fitting = linear(tmp_path / "ok.onnx", ["n", 64])
    with pytest.raises(ModelError, match="10 classes, the data has 2"):
        open_foreign(f"onnx:{fitting}", {}, classes=["a", "b"]).answer(batch_of())
    (tmp_path / "half.onnx").write_bytes(fitting.read_bytes()[:100])
    (tmp_path / "page.onnx").write_text("<html>")
    for name in ("half", "page"):
        with pytest.raises(DamagedError, match="no ONNX file that can be run"):
            opened(tmp_path / f"{name}.onnx")
