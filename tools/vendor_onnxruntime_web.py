"""Put the files of onnxruntime-web that the demo page needs into src/tutelage/demo/vendor, or check those there.

    python tools/vendor_onnxruntime_web.py 1.30.0      fetch this version by npm and write the files and their README
    python tools/vendor_onnxruntime_web.py --check     only compare the files with the sums in their README

Only the build for WebAssembly without GPUs is taken. Its binary is compressed here, without a time inside, so that the
same version always gives the same bytes; the README keeps the sum of what npm delivered as well.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "onnxruntime-web"
FOLDER = Path(__file__).resolve().parents[1] / "src" / "tutelage" / "demo" / "vendor"
# As they are called in the package, and here.
FILES = {
    "ort.wasm.min.mjs": "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm.gz",
}
MOST_BYTES = 5_000_000
_ROW = re.compile(r"^\| `(?P<name>[^`]+)` \| (?P<bytes>[\d,]+) \| `(?P<sum>[0-9a-f]{64})` \| (?:`(?P<own>\w{64})`)?")

README = """# onnxruntime-web {version}

ONNX Runtime for browsers, by Microsoft, under the MIT licence in `LICENSE`: the build that runs in WebAssembly on the
processor, taken from the npm package `{package}` {version} and not changed. The binary is compressed with gzip and sent
like that. `python tools/vendor_onnxruntime_web.py VERSION` replaces these files, and `--check` compares them with this
table. What third parties contributed is listed in `ThirdPartyNotices.txt` of the same release of ONNX Runtime.

| file | bytes | SHA-256 | SHA-256 unpacked |
|---|---|---|---|
{rows}
"""


def main(words: list[str]) -> int:
    if words == ["--check"]:
        faults = check(FOLDER)
        print("\n".join(faults) or f"{FOLDER}: every file is what its README says")
        return bool(faults)
    if len(words) != 1 or not re.fullmatch(r"\d+\.\d+\.\d+", words[0]):
        print(__doc__)
        return 2
    with tempfile.TemporaryDirectory() as place:
        refresh(words[0], fetched(words[0], Path(place)))
    faults = check(FOLDER)
    print("\n".join(faults) or f"{FOLDER}: {PACKAGE} {words[0]}")
    return bool(faults)


def fetched(version: str, place: Path) -> Path:
    """Pack one version by npm, compare it with the sum that npm names, and unpack what is needed."""
    asked = ["npm", "pack", f"{PACKAGE}@{version}", "--json"]
    told = subprocess.run(asked, cwd=place, capture_output=True, text=True, check=True).stdout  # noqa: S603  a version
    found = json.loads(told)
    one = found[0] if isinstance(found, list) else next(iter(found.values()))
    archive = place / Path(one["filename"]).name
    kind, _, expected = one["integrity"].partition("-")
    if base64.b64encode(hashlib.new(kind, archive.read_bytes()).digest()).decode() != expected:
        raise SystemExit(f"{archive.name} is not what npm says it is")
    with tarfile.open(archive) as packed:
        wanted = ["package/package.json", *(f"package/dist/{name}" for name in FILES)]
        packed.extractall(place, [packed.getmember(name) for name in wanted], filter="data")
    return place / "package"


def refresh(version: str, package: Path) -> None:
    """Write the files and their README."""
    facts = json.loads((package / "package.json").read_text(encoding="utf-8"))
    if (facts["name"], facts["version"], facts["license"]) != (PACKAGE, version, "MIT"):
        raise SystemExit(f"not {PACKAGE} {version} under the MIT licence: {facts['name']} {facts['version']}")
    rows = []
    for source, name in FILES.items():
        data = (package / "dist" / source).read_bytes()
        own = ""
        if name.endswith(".gz"):
            own, data = f"`{_sum(data)}` ", gzip.compress(data, 9, mtime=0)
        (FOLDER / name).write_bytes(data)
        rows.append(f"| `{name}` | {len(data):,} | `{_sum(data)}` | {own}|")
    text = README.format(version=version, package=PACKAGE, rows="\n".join(rows))
    (FOLDER / "README.md").write_text(text, encoding="utf-8")


def check(folder: Path) -> list[str]:
    """What is wrong with the files, a line each."""
    found = [match for line in (folder / "README.md").read_text(encoding="utf-8").splitlines()
             if (match := _ROW.match(line))]  # fmt: skip
    faults = [] if {row["name"] for row in found} == set(FILES.values()) else ["the README lists other files"]
    for row in found:
        data = (folder / row["name"]).read_bytes()
        if _sum(data) != row["sum"] or f"{len(data):,}" != row["bytes"]:
            faults.append(f"{row['name']} is not the file that the README lists")
        elif row["own"] and _sum(gzip.decompress(data)) != row["own"]:
            faults.append(f"{row['name']} holds another file than the README says")
    if sum(path.stat().st_size for path in folder.iterdir()) > MOST_BYTES:
        faults.append(f"the files are larger than {MOST_BYTES:,} bytes together")
    return faults


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
