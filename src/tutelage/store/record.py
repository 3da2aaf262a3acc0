"""One call from a teacher and examples to a teacher that reads its answers from disk, for any loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from tutelage.data import Examples, Views
from tutelage.errors import InputError
from tutelage.store.asking import Capture
from tutelage.store.builder import build
from tutelage.store.codecs import codec_of
from tutelage.store.places import store_root
from tutelage.store.plan import Question, draws_of
from tutelage.store.reader import StoredTeacher
from tutelage.teachers import ModuleTeacher, Teacher, as_teacher

__all__ = ["record"]


def record(
    teacher: Teacher | nn.Module,
    examples: Examples,
    *,
    views: Views | None = None,
    recorded: int | str = "none",
    seeds: Sequence[int] = (0,),
    epochs: int = 1,
    codec: str = "fp32",
    temperature: float = 1.0,
    places: Sequence[str] = (),
    root: Path | str | None = None,
    quiet: bool = True,
) -> StoredTeacher:
    """Ask a teacher about examples, unless the answers are there, and read them from disk from then on.

    Args:
        teacher: a torch module, or anything that answers; on the CPU.
        examples: to be asked about.
        views: what may happen to an input; nothing by default.
        recorded: with random views, how many of each example (`Batches(…, recorded=…)` then draws from those), or
            "replay" for every view that `seeds` and `epochs` draw.
        seeds: for "replay".
        epochs: for "replay".
        codec: fp32, fp16, bf16, int8, top-K or sample-N.
        temperature: at which losses will read a top-K or sample-N.
        places: layers of a torch module whose outputs are kept as well.
        root: where stores lie; by default `$TUTELAGE_STORE`, else the user's cache folder.
        quiet: show no progress.

    Raises:
        TutelageError: everything a user can mend, as the tree in `tutelage.errors` says.

    Example:
        >>> import tempfile, torch
        >>> from tutelage.data import Batches, Views, from_arrays
        >>> data = from_arrays(torch.rand(60, 4), [0, 1, 2] * 20, val=0.2, test=0.2, seed=0)
        >>> stored = record(torch.nn.Linear(4, 3), data.train, root=tempfile.mkdtemp())
        >>> batch = next(Batches(data.train, batch_size=8, views=Views(), seed=0).epoch(0))
        >>> stored.answer(batch).logits.shape
        torch.Size([8, 3])
    """
    folder = store_root(root)
    if isinstance(folder, str):
        raise InputError(f"{folder} can be read, but not written", fix="record into a local folder, and copy it there")
    if places and not isinstance(teacher, nn.Module):
        raise InputError("layers can be tapped in a torch module only", given=type(teacher).__name__)
    asked = ModuleTeacher(teacher, places=places) if isinstance(teacher, nn.Module) else as_teacher(teacher)
    looks = views or Views()
    question = Question(examples, looks, draws_of(recorded, looks, seeds=seeds, epochs=epochs))
    capture = Capture(asked.answer, asked.fingerprint(), codec_of(codec, temperature), places=tuple(places))
    return StoredTeacher(build(folder, question, capture, tell=print, quiet=quiet).place)
