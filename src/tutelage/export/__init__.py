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
from tutelage.export.facts import Facts, Runner
from tutelage.export.parity import Parity
from tutelage.export.speaking import RunnerModule

__all__ = [
    "FORMATS",
    "Artifact",
    "Facts",
    "Format",
    "Parity",
    "Runner",
    "RunnerModule",
    "check_formats",
    "export_model",
    "format_of",
    "open_artifact",
]
