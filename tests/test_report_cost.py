"""What models cost, on the page: nothing is hidden, nothing overlaps, and an estimate is called one."""

from __future__ import annotations

import math
import random
import re
from itertools import pairwise
from typing import Any

import pytest

from tutelage.report import plane
from tutelage.report.cost import cost, frontier

EVIL = "<b>x</b>"
RAPL = {"joules": 12.0, "source": "rapl", "words": "by a counter"}
LETTER, LINE = 9.7, 18.0  # of bold letters on a phone, in units of the picture


def estimate(value: float, half: float | None) -> dict[str, Any]:
    low, high = (None, None) if half is None else (value - half, value + half)
    return {"value": value, "ci_low": low, "ci_high": high, "n": 100, "seeds": 3, "method": ""}


def times(p50: float, batch: int = 1, **more: Any) -> dict[str, Any]:
    row = {"batch": batch, "p50_ms": p50, "ci_low_ms": 0.9 * p50, "ci_high_ms": 1.1 * p50, "p90_ms": 1.2 * p50}
    return row | {"n": 1000, "threads": 1, "speed_ratio": None} | more


def model(name: str, role: str, *rows: dict[str, Any], parameters: int = 1000, size: int = 4000) -> dict[str, Any]:
    return {"name": name, "role": role, "latency": list(rows), "parameters": parameters, "file_bytes": size}


def point(name: str, role: str, accuracy: float, size: int, p50: float | None, **more: Any) -> dict[str, Any]:
    spent = None if p50 is None else {"value": p50, "ci_low": 0.9 * p50, "ci_high": 1.1 * p50}
    facts = {"student": "", "method": name, "compression": "", "on_size": False, "on_latency": False}
    cost = {"parameters": 1000, "file_bytes": size, "multiply_adds": 2000, "p50_ms": spent}
    return {"name": name, "role": role, "accuracy": estimate(accuracy, 0.01)} | facts | cost | more


def on_the_edge(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Marked by the definition, pair by pair."""

    def value(one: dict[str, Any], key: str) -> float:
        return one["file_bytes"] if key == "on_size" else one["p50_ms"]["value"]

    for key in ("on_size", "on_latency"):
        for one in points:
            beaten = [
                other for other in points
                if other["accuracy"]["value"] >= one["accuracy"]["value"] and value(other, key) <= value(one, key)
                and (other["accuracy"]["value"] > one["accuracy"]["value"] or value(other, key) < value(one, key))
            ]  # fmt: skip
            one[key] = not beaten
    return points


def report(models: list[dict[str, Any]], points: list[dict[str, Any]] | None = None, seeds: int = 3) -> dict[str, Any]:
    found = {"models": models, "seeds": list(range(seeds)), "data": {"totals": {"test": 1234}}}
    return found if points is None else found | {"frontier": {"batch": 1, "threads": 1, "points": points}}


def crowd(count: int, seed: int = 0) -> dict[str, Any]:
    """A teacher and many students, some of them at the same place."""
    draw = random.Random(seed)
    points = [point("teacher", "teacher", 0.95, 4_000_000, 9.0)]
    for index in range(count - 1):
        size = draw.choice([40_000, 160_000, 640_000, 90_000 + 1000 * index])
        accuracy = 0.7 + 0.04 * (size / 40_000) ** 0.5 + draw.uniform(-0.06, 0.0)
        role = "baseline" if index % 3 == 0 else "distilled"
        points.append(point(f"student-{index}.arm", role, accuracy, size, size / 2e5 * draw.uniform(0.8, 1.2)))
    points = on_the_edge(points)
    return report([model(one["name"], one["role"]) for one in points], points)


def pictures(found: object) -> list[str]:
    return re.findall(r"<svg.*?</svg>", str(found))


def attribute(element: str, name: str) -> float:
    match = re.search(rf'\b{name}="([-\d.]+)"', element)
    assert match
    return float(match[1])


def names(picture: str) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Every name in a picture with the room that it takes on a phone."""
    found = []
    for element, text in re.findall(r'(<text [^>]*class="name halo">)([^<]*)</text>', picture):
        x, y, width = attribute(element, "x"), attribute(element, "y"), LETTER * len(text)
        left = {"start": x, "middle": x - width / 2, "end": x - width}[re.findall(r'anchor="(\w+)"', element)[0]]
        found.append((text, (left, y - 0.75 * LINE, left + width, y + 0.25 * LINE)))
    return found


def places(picture: str) -> list[tuple[float, float]]:
    """The middle of every point."""
    found = [(attribute(one, "cx"), attribute(one, "cy")) for one in re.findall(r"<circle[^>]*>", picture)]
    for one in re.findall(r"<rect[^>]*>", picture):
        half = attribute(one, "width") / 2
        found.append((attribute(one, "x") + half, attribute(one, "y") + half))
    for corners in re.findall(r'<polygon points="([^"]*)"', picture):
        xs, ys = zip(*((float(n) for n in pair.split(",")) for pair in corners.split()), strict=True)
        found.append((sum(xs) / 3, 0.4 * min(ys) + 0.6 * max(ys)))
    return found


def steps(picture: str) -> list[tuple[float, float]]:
    corners = re.findall(r'<polyline points="([^"]*)"', picture)[0].split()
    return [(float(a), float(b)) for a, b in (corner.split(",") for corner in corners)]


@pytest.mark.parametrize("count", [2, 3, 8, 20, 40])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_names_overlap_neither_each_other_nor_any_point(count: int, seed: int) -> None:
    both = pictures(frontier(crowd(count, seed)))
    assert len(both) == 2
    for picture in both:
        boxes = names(picture)
        dots = places(picture)
        assert len(dots) == count
        for index, (text, (left, top, right, bottom)) in enumerate(boxes):
            assert left >= 0
            assert right <= 520
            for other, (a, b, c, d) in boxes[:index]:
                assert right < a or c < left or bottom < b or d < top, f"{text} covers {other}"
            for x, y in dots:
                assert not (left < x < right and top < y < bottom), f"{text} covers a point"


@pytest.mark.parametrize("count", [3, 40])
def test_every_point_is_drawn_told_and_listed(count: int) -> None:
    found = crowd(count)
    page = str(frontier(found))
    for picture, table, key in zip(
        pictures(page), re.findall(r"<table.*?</table>", page), ("on_size", "on_latency"), strict=True
    ):
        titles = re.findall(r"<g[^>]*><title>([^:<]*): [^<]*</title>", picture)
        rows = re.findall(r'<tr><th scope="row">(.*?)</th>', table)
        points = found["frontier"]["points"]
        assert sorted(titles) == sorted(rows) == sorted(one["name"] for one in points)
        assert table.count("<td>yes</td>") == sum(one[key] for one in points)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_line_climbs_through_the_points_that_none_beats(seed: int) -> None:
    found = crowd(40, seed)
    for picture, key in zip(pictures(frontier(found)), ("on_size", "on_latency"), strict=True):
        corners = steps(picture)
        assert all(b[0] >= a[0] and b[1] <= a[1] and (a[0] == b[0] or a[1] == b[1]) for a, b in pairwise(corners))
        strong = re.findall(r"<g>(.*?)</g>", picture)
        middles = {(round(x, 1), round(y, 1)) for one in strong for x, y in places(one)}
        assert len(strong) == len(
            {one["name"] for one in found["frontier"]["points"] if one[key] or one["role"] == "teacher"}
        )
        bends = {(round(x, 1), round(y, 1)) for x, y in corners[::2]}
        assert bends <= middles | {(round(corners[-1][0], 1), round(corners[-1][1], 1))}
        assert len(bends) >= sum(one[key] for one in found["frontier"]["points"])


def test_crosses_are_the_intervals_on_the_scales_of_the_picture() -> None:
    points = [
        point("teacher", "teacher", 0.9, 80_000, 4.0, on_size=True, on_latency=True),
        point("small", "distilled", 0.8, 20_000, 1.0, on_size=True, on_latency=True),
    ]
    size, time = pictures(frontier(report([model("teacher", "teacher"), model("small", "distilled")], points)))
    lines = [
        [attribute(line, key) for key in ("x1", "x2", "y1", "y2")]
        for line in re.findall(r'<line [^>]*class="range[^>]*>', time)
    ]
    (level, upright), (other, high) = lines[:2], lines[2:]  # from left to right
    # On a logarithmic axis equal ratios are equal distances: 1.1 / 0.9 here and there, and 4 between the two.
    assert level[1] - level[0] == pytest.approx(other[1] - other[0], abs=0.05)
    assert (high[0] - upright[0]) / (level[1] - level[0]) == pytest.approx(math.log(4) / math.log(1.1 / 0.9), rel=0.01)
    # 2 points of accuracy in the cross, 10 between the two.
    assert (upright[3] - upright[2]) * 5 == pytest.approx(upright[2] - high[2], abs=0.1)
    assert len(re.findall(r'class="range', size)) == 2  # a file's size has no interval
    for line in re.findall(r'<line [^>]*class="range[^>]*>', size):
        assert attribute(line, "x1") == attribute(line, "x2")


def test_a_single_run_without_an_interval_has_no_cross() -> None:
    points = [
        point(name, role, 0.9, size, None) for name, role, size in (("teacher", "teacher", 900), ("s", "other", 90))
    ]
    for one in points:
        one["accuracy"] = estimate(0.9, None)
    found = str(frontier(report([model("teacher", "teacher"), model("s", "other")], points, seeds=1)))
    assert 'class="range' not in found
    assert len(pictures(found)) == 1  # nothing was timed


def test_shapes_tell_teacher_scratch_and_compressed() -> None:
    points = [
        point("teacher", "teacher", 0.9, 9000, 9.0),
        point("scratch", "baseline", 0.8, 900, 1.0),
        point("scratch.int8", "compressed", 0.8, 300, 1.0, method="scratch", compression="int8"),
        point("distilled", "distilled", 0.85, 900, 1.0),
        point("distilled.int8", "compressed", 0.85, 300, 1.0, method="distilled", compression="int8"),
    ]
    page = str(frontier(report([model(one["name"], one["role"]) for one in points], points)))
    drawn = dict(
        re.findall(r"<title>([^:<]*): [^<]*</title>.*?<(?!line)(\w+ [^>]*class=\"[^\"]*\")", pictures(page)[0])
    )
    assert {name: re.sub(r" .*class=", " ", shape).strip('"') for name, shape in drawn.items()} == {
        "teacher": 'polygon "seed m-teacher',
        "scratch": 'rect "seed m-baseline',
        "scratch.int8": 'rect "open m-baseline',
        "distilled": 'circle "seed m-0',
        "distilled.int8": 'circle "open m-0',
    }
    for words in ("Triangle", "Squares", "Circles", "Hollow"):
        assert words in page
    assert "Hollow" not in str(frontier(crowd(4)))


def test_names_without_room_become_numbers_with_a_key() -> None:
    points = [point("teacher", "teacher", 0.95, 4_000_000, 1.0)]
    points += [
        point(f"an-arm-with-a-long-name-{i}", "distilled", 0.9 + 0.0005 * i, 40_000 + 900 * i, 1.0) for i in range(30)
    ]
    found = on_the_edge(points)
    page = str(frontier(report([model(one["name"], one["role"]) for one in found], found)))
    picture = pictures(page)[0]
    texts = [text for text, _ in names(picture)]
    key = dict(re.findall(r"<span>(\d+) ([^<]*)</span>", page.split("<figcaption>")[0]))
    assert key
    assert [text for text in texts if text.isdecimal()] == list(key)
    assert set(key.values()) <= {one["name"] for one in points}
    assert "teacher" in texts
    assert any(
        re.fullmatch(r"an-arm-with-…ong-name-\d+|an-arm-with-…ng-name-\d+", text) for text in texts
    )  # both ends of a long name


@pytest.mark.parametrize(
    ("axis", "low", "high", "expected"),
    [
        (plane.SIZE, 900.0, 9e6, ["1 KiB", "10 KiB", "100 KiB", "1 MiB"]),
        (plane.SIZE, 150e3, 600e3, ["200 KiB", "500 KiB"]),
        (plane.SIZE, 1.30e6, 1.62e6, ["1.3 MiB", "1.4 MiB", "1.5 MiB"]),
        (plane.SIZE, 14e3, 3e6, ["20 KiB", "100 KiB", "500 KiB", "2 MiB"]),
        (plane.TIME, 0.04, 30.0, ["0.1", "1", "10"]),
        (plane.TIME, 0.8, 4.5, ["1", "2"]),
        (plane.TIME, 0.15, 8.0, ["0.2", "1", "5"]),
        (plane.TIME, 2.1, 3.2, ["2.5", "3"]),
    ],
)
def test_ticks_are_round_and_have_room(axis: plane.Axis, low: float, high: float, expected: list[str]) -> None:
    scale = plane._Logarithmic(low, high)
    ticks = scale.ticks(axis)
    assert [axis.text(tick) for tick in ticks] == expected
    assert all(low <= tick <= high for tick in ticks)


def rows_of(page: str) -> list[list[str]]:
    return [
        [
            re.sub(r"<[^>]*>", "", re.sub(r"<small[^>]*>", " ", cell)).replace("\u2060", "").replace("\u00a0", " ")
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
        ]
        for row in re.findall(r"<tr>(.*?)</tr>", page)
    ]


def test_the_table_has_every_cost() -> None:
    more = {"p95_ms": 3.0, "p99_ms": 4.0, "peak_bytes": 1 << 20, "speed_low": 1.9, "speed_high": 2.1, "energy": RAPL}
    teacher = model("teacher", "teacher", times(2.0, p95_ms=2.5), parameters=0, size=0)
    student = model("small", "distilled", times(1.0, **more | {"speed_ratio": 2.0})) | {"multiply_adds": 5000}
    page = str(cost(report([teacher, student])))
    head, first, second = rows_of(page)
    assert head == [
        "Model", "p50 1 thread, 1,000 calls", "p90", "p95", "Faster than the teacher", "Memory",
        "Energy 1,000 examples, estimate", "Parameters", "Multiply-adds", "File",
    ]  # fmt: skip
    assert first == ["teacher", "2.00 ms 1.80…2.20", "2.40 ms", "2.50 ms", "–", "–", "20.0 J", "–", "–", "–"]
    assert second == [
        "small", "1.00 ms 0.900…1.10", "1.20 ms", "3.00 ms p99 4.00 ms", "2.00× 1.90…2.10", "1.0 MiB",
        "12.0 J by RAPL", "1,000", "5,000", "3.9 KiB",
    ]  # fmt: skip
    assert "by a counter" in page
    assert "an estimate from busy processor time" in page


def test_what_a_counter_said_is_no_estimate() -> None:
    timed = [model(name, name, times(1.0, energy=RAPL)) for name in ("teacher", "other")]
    whole = {"joules": 12_345.0, "source": "rapl", "words": "by a counter"}
    page = str(cost(report(timed) | {"energy": whole}))
    assert "estimate" not in page
    assert "The whole run took 12.3\u00a0kJ (by a counter)." in page


def test_every_batch_has_a_table_and_a_model_that_was_not_timed_a_row() -> None:
    timed = model("small", "distilled", times(1.0), times(30.0, 64))
    page = str(cost(report([model("teacher", "teacher"), timed])))
    assert re.findall(r"<h3>(.*?)</h3>", page) == ["Batch 1", "Batch 64"]
    assert [row[:2] for row in rows_of(page) if row[0] == "teacher"] == [["teacher", "–"]] * 2
    many = [model(f"arm-{i}", "other", times(1.0)) for i in range(20)]
    assert "<summary>Every model at batch 1</summary>" in str(cost(report([model("teacher", "teacher"), *many])))


def test_without_times_and_points_there_is_no_section() -> None:
    assert cost(report([model("teacher", "teacher"), model("s", "other")])) is None
    alone = [point("teacher", "teacher", 0.9, 0, None), point("s", "other", 0.8, 40, None)]
    assert frontier(report([model("teacher", "teacher"), model("s", "other")], alone)) is None
    untimed = crowd(3)
    for one in untimed["frontier"]["points"]:
        one["p50_ms"] = None
    assert "Nothing was timed" in str(cost(untimed))


def test_names_stay_text_and_the_same_report_gives_the_same_page() -> None:
    points = [
        point("teacher", "teacher", 0.9, 900, 2.0, on_size=True),
        point(EVIL, "other", 0.8, 90, 1.0, on_size=True),
    ]
    found = report([model("teacher", "teacher", times(2.0)), model(EVIL, "other", times(1.0))], points)
    page = str(cost(found))
    assert EVIL not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert page == str(cost(found))
