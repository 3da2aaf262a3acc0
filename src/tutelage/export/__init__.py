"""From a module to the file that ships, and from the file to answers; every file is compared with its model.

module ─► format.write ─► file ─► format.open ─► parity on real examples, several batch sizes ─► kept, or refused
"""

from tutelage.export.artifacts import (
    FORMATS,
    Artifact,
    Format,
    check_formats,
    export_model,
    format_of,
    open_artifact,
)
from tutelage.export.facts import Facts, Inputs, Runner, example_inputs
from tutelage.export.parity import Parity
from tutelage.export.speaking import RunnerModule

__all__ = [
    "FORMATS",
    "Artifact",
    "Facts",
    "Format",
    "Inputs",
    "Parity",
    "Runner",
    "RunnerModule",
    "check_formats",
    "example_inputs",
    "export_model",
    "format_of",
    "open_artifact",
]
