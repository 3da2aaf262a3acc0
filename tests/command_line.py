"""The command line as a test calls it: in this process, with what it printed and how it ended."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import NamedTuple

import pytest

from tutelage import cli


class Outcome(NamedTuple):
    code: object
    out: str
    err: str


def call(*words: str) -> Outcome:
    """The command line in this process: the exit code and what was printed."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["tutelage", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    return Outcome(caught.value.code, out.getvalue(), err.getvalue())
