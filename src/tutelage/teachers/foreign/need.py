"""Importing other frameworks: when they are needed, quietly, and with the name of the extra where one is missing."""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch

from tutelage.errors import MissingExtraError
from tutelage.progress import quiet

__all__ = ["need", "quiet", "threads"]

# TensorFlow's C++ side tells of processors and of its own plugins before anybody asked it anything.
_SILENCE = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "ORT_DISABLE_TELEMETRY": "1"}


def need(module: str, *, package: str, extra: str, purpose: str) -> Any:
    """Import a module of another framework.

    Raises:
        MissingExtraError: it is not installed; names the extra of tutelage that brings it.
    """
    for name, value in _SILENCE.items():
        os.environ.setdefault(name, value)
    try:
        with quiet():
            return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(package, extra, purpose=purpose) from error


def threads() -> int:
    """How many threads a teacher may take: as many as torch."""
    return torch.get_num_threads()
