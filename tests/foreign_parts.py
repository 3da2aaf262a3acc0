"""A package with losses as an installer would leave it: its module, and beside it what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install(folder: Path, package: str, version: str, module: str, source: str, losses: Mapping[str, str]) -> Path:
    """Put a package into a folder that stands on the path; `losses` are its entry points."""
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    about = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n", encoding="utf-8")
    points = "".join(f"{name} = {function}\n" for name, function in losses.items())
    (about / "entry_points.txt").write_text(f"[tutelage.losses]\n{points}", encoding="utf-8")
    return folder
