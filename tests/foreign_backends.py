"""Keras on JAX or TensorFlow, a SavedModel, and JAX as teachers: one backend a process, so `python` runs this file.

python foreign_backends.py keras-jax|keras-tensorflow|savedmodel|jax FOLDER
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

KIND, HERE = sys.argv[1] if len(sys.argv) > 1 else "", Path(sys.argv[2] if len(sys.argv) > 2 else ".")
os.environ["KERAS_BACKEND"] = KIND.partition("-")[2] if KIND.startswith("keras-") else "tensorflow"

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from foreign_models import arrays, batch, batch_of, close, digits, same_live_and_stored, softmax  # noqa: E402
from tutelage.errors import InputError, ModelError  # noqa: E402
from tutelage.teachers import as_teacher  # noqa: E402
from tutelage.teachers.foreign import open_foreign  # noqa: E402
from tutelage.teachers.foreign.need import quiet  # noqa: E402

NAMES = digits().train.classes
WEIGHTS = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)


def refused(kind: type[Exception], message: str, model: str, **args: Any) -> None:
    """A wrong name or model is told in words."""
    with pytest.raises(kind, match=re.escape(message)):
        open_foreign(model, args, classes=NAMES, trust=True)


def keras_elsewhere() -> None:
    """A callable teacher, live and stored, from an object and from a file."""
    from foreign_models import keras_model

    model = keras_model()
    asked = batch_of()
    with quiet():
        import keras

        model.save(HERE / "m.keras")
        own = keras.ops.convert_to_numpy(model(asked.inputs["x"].permute(0, 2, 3, 1).numpy(), training=False))
    file = open_foreign(f"keras:{HERE / 'm.keras'}", {}, classes=NAMES)
    teacher = as_teacher(model, classes=NAMES)
    before = teacher.fingerprint()
    for one in (file, teacher):
        close(softmax(one.answer(asked).logits), own, 1e-5)
    same_live_and_stored(model, HERE)
    assert teacher.fingerprint() == before
    with pytest.raises(ModelError, match="answers no features"):
        as_teacher(model, ["layers.dense"], NAMES)


def saved_model() -> None:
    """A folder of TensorFlow, with one output and with two."""
    import tensorflow as tf

    class Net(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(WEIGHTS)

        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32, name="pixels")])
        def one(self, pixels: Any) -> Any:
            return {"logits": tf.reshape(pixels, [-1, 64]) @ self.w}

        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32, name="pixels")])
        def two(self, pixels: Any) -> Any:
            logits = tf.reshape(pixels, [-1, 64]) @ self.w
            return {"logits": logits, "p": tf.nn.softmax(logits)}

    net, asked = Net(), batch_of()
    with quiet():
        tf.saved_model.save(net, str(HERE / "m"), signatures={"serving_default": net.one, "both": net.two})
    expected = asked.inputs["x"].flatten(1).numpy() @ WEIGHTS
    teacher = open_foreign(f"savedmodel:{HERE / 'm'}", {}, classes=NAMES)
    close(teacher.answer(asked).logits.numpy(), expected, 1e-4)
    told = {"signature": "both", "output": "p"}
    sure = open_foreign(f"savedmodel:{HERE / 'm'}", told, classes=NAMES)
    close(softmax(sure.answer(asked).logits), torch.tensor(expected).softmax(-1).numpy(), 1e-4)
    assert sure.fingerprint() != teacher.fingerprint()
    loaded = tf.saved_model.load(str(HERE / "m"))
    live = as_teacher(loaded, classes=NAMES)
    close(live.answer(asked).logits.numpy(), expected, 1e-4)
    same_live_and_stored(teacher, HERE)
    refused(InputError, "did you mean `both`", f"savedmodel:{HERE / 'm'}", signature="boths")
    refused(InputError, "has 2 outputs", f"savedmodel:{HERE / 'm'}", signature="both")
    refused(InputError, "has no output `q`", f"savedmodel:{HERE / 'm'}", output="q")


def pixels_times(factor: float = 1.0) -> Any:
    """What a recipe names as `jax:foreign_backends:pixels_times`."""
    import jax

    return jax.jit(lambda x: x.reshape(len(x), -1) @ (WEIGHTS * factor))


def no_function() -> Any:
    """What a recipe may name by mistake."""
    return 3


def jax_function() -> None:
    """A function that JAX compiled, by its name and as an object."""
    asked = batch_of()
    expected = asked.inputs["x"].flatten(1).numpy() @ WEIGHTS
    named = open_foreign("jax:foreign_backends:pixels_times", {"factor": 2.0}, classes=NAMES, trust=True)
    close(named.answer(asked).logits.numpy(), expected * 2, 1e-4)
    teacher = as_teacher(pixels_times(), classes=NAMES)
    close(teacher.answer(asked).logits.numpy(), expected, 1e-4)
    assert teacher.fingerprint() == as_teacher(pixels_times()).fingerprint() != named.fingerprint()
    same_live_and_stored(pixels_times(), HERE)
    refused(ModelError, "returns no teacher", "jax:foreign_backends:no_function")
    refused(InputError, "has no `pixels_time`", "jax:foreign_backends:pixels_time")
    refused(ModelError, "fails: TypeError", "jax:foreign_backends:pixels_times", facto=1)
    with pytest.raises(ModelError, match="cannot answer: TypeError"):
        teacher.answer(batch(torch.rand(3, 7)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert len(arrays()[0]) == 300
    {"savedmodel": saved_model, "jax": jax_function}.get(KIND, keras_elsewhere)()
    print("all as it should be")
