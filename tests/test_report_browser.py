"""The report page in a real browser: inert, readable, reachable by keys, fit for a phone, for the dark and for paper.

The page is asked about itself through a driver that starts the Chromium of this machine; nothing is downloaded. Every
page of every test is closed by `opened`, which fails where the console complained or anything but the file was fetched.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from browser_questions import COLOURS, LOOSE, OVERLAPS, TABLES, TIGHT, colour, contrast, faint, light
from scored_runs import make_report
from test_report import EVIL, VARIANTS, make
from tutelage.report.html import page as html

driver = pytest.importorskip("playwright.sync_api", reason="needs playwright, which drives a browser")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium to open the page in")

Open = Callable[..., Any]
SCREENS = {"desk": (1280, 900), "phone": (390, 844), "least": (320, 640)}
PAPER = (688, 1000)  # what 14 mm of margin leave of A4, in CSS pixels
NAMES = (
    "cat & dog",
    "<script>document.title = 'ran'</script>",
    "<img src=x onerror=\"document.title='ran'\">",
    "'\"></style></title><svg onload=alert(1)>",
    "\u202eright to left \u05d0\u05d1\u05d2",
    "x" * 300,
    "🦄👩\u200d🚀🏳\ufe0f\u200d🌈",
    "鸟和猫",
    "a | b `c` {{7*7}} ${x}",
    "ordinary",
)


def picture() -> str:
    found = io.BytesIO()
    Image.new("L", (8, 8), 90).save(found, "png")
    return base64.b64encode(found.getvalue()).decode()


def report_of(kind: str) -> Any:
    if kind in VARIANTS:
        return make(**VARIANTS[kind])
    if kind == "several students":
        students = ("small", "a-name-of-forty-letters-as-long-as-it-may")
        return make_report(students=students, compress=("fp16", "int8"))[0]
    long = "a-name-much-too-long-for-any-chart-to-ho"
    report = make(classes=NAMES, arms=("scratch", "taught", long))
    report["pictures"] = [{"true": NAMES[1], "said": name, "png": picture()} for name in NAMES]
    return report


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    kinds = ["full", "single run", "five arms", "several students", "many classes", "hostile"]
    found = {kind: folder / f"{kind}.html" for kind in kinds}
    for kind, file in found.items():
        file.write_text(html(report_of(kind)), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with driver.sync_playwright() as started:
        # Containers and CI run as root, where Chromium's sandbox does not start.
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def opened(browser: Any, files: dict[str, Path]) -> Open:
    """Opens a page by kind, at a size, and looks over its shoulder until it is closed."""

    @contextmanager
    def visit(kind: str | Path = "full", size: tuple[int, int] = SCREENS["desk"], **options: Any) -> Iterator[Any]:
        file = kind if isinstance(kind, Path) else files[kind]
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        context.set_default_timeout(20_000)
        page, complaints, fetched = context.new_page(), [], []
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        context.route("**/*", lambda route: (fetched.append(route.request.url), route.continue_()))
        context.set_offline(True)
        page.goto(file.as_uri())
        page.complaints = complaints
        yield page
        context.close()
        assert complaints == []
        assert [url for url in fetched if not url.startswith("data:")] == [file.as_uri()]

    return visit


def unfold(page: Any) -> None:
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")


# ---- room ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "five arms", "several students", "many classes", "hostile"])
def test_nothing_runs_off_the_screen(opened: Open, kind: str) -> None:
    with opened(kind) as page:
        for fold in (None, unfold):
            if fold:
                fold(page)
            for width, height in SCREENS.values():
                page.set_viewport_size({"width": width, "height": height})
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert page.evaluate(LOOSE) == []
                assert page.evaluate(TIGHT) == []
                tables = page.evaluate(TABLES)
                assert len(tables) >= 4
                for table in tables:
                    check_room(table, width)


def check_room(table: dict[str, Any], width: int) -> None:
    if table["wide"]:
        assert table["boxed"], table
        assert table["moved"] > 0, table
    else:
        assert table["own"] <= width + 1, table
    assert 0 <= table["left"] < table["right"] <= width, table
    assert table["last"] <= table["right"] + 1, table  # the last column can be brought into view


@pytest.mark.parametrize("kind", ["single run", "five arms", "several students", "hostile"])
def test_no_word_of_a_chart_lies_on_another(opened: Open, kind: str) -> None:
    with opened(kind) as page:
        for width, height in SCREENS.values():
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate(OVERLAPS) == []


def test_names_leave_room_for_numbers(opened: Open) -> None:
    with opened("hostile") as page:
        for width, height in (SCREENS["desk"], SCREENS["phone"]):
            page.set_viewport_size({"width": width, "height": height})
            widths = page.evaluate(
                "[...document.querySelectorAll('.sticky th:first-child, .main th:first-child')]"
                ".filter(one => one.checkVisibility()).map(one => one.getBoundingClientRect().width)"
            )
            assert len(widths) > 20
            assert max(widths) <= width / 2


def test_a_wide_table_moves_under_the_arrow_keys(opened: Open) -> None:
    with opened("five arms", SCREENS["phone"]) as page:
        box = page.locator(".wide").first
        for _ in range(10):
            page.keyboard.press("Tab")
            if box.evaluate("one => one === document.activeElement"):
                break
        else:
            raise AssertionError("Tab does not reach the main table")
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(300)
        assert box.evaluate("one => one.scrollLeft") > 0


# ---- colour ----------------------------------------------------------------------------------------------------------


def test_contrast_is_that_of_the_definition() -> None:
    assert contrast("rgb(0, 0, 0)", ["rgb(255, 255, 255)"]) == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", ["rgba(0, 0, 0, 0)", "rgb(255, 255, 255)"]) == pytest.approx(4.478, abs=1e-3)
    assert contrast("rgb(0, 0, 0)", ["rgba(0, 0, 0, 0.5)"]) == pytest.approx(
        contrast("rgb(0, 0, 0)", ["rgb(127.5, 127.5, 127.5)"])
    )


@pytest.mark.parametrize("kind", ["several students", "hostile"])
def test_text_stands_out_from_its_ground(opened: Open, kind: str) -> None:
    with opened(kind) as page:
        unfold(page)
        for look in ("light", "dark", "paper"):
            page.emulate_media(
                color_scheme="dark" if look == "dark" else "light", media="print" if look == "paper" else "screen"
            )
            found = page.evaluate(COLOURS)
            assert len(found) > 30
            assert faint(found) == {}, look


def test_the_dark_is_dark_and_changes_no_word(opened: Open) -> None:
    grounds, words = {}, {}
    with opened() as page:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            grounds[scheme] = light(colour(page.evaluate("getComputedStyle(document.body).backgroundColor")))
            words[scheme] = page.inner_text("body")
    assert grounds["light"] > 0.8
    assert grounds["dark"] < 0.05
    assert words["light"] == words["dark"]


# ---- keys, order, names ----------------------------------------------------------------------------------------------


def test_every_fold_opens_and_shuts_by_mouse(opened: Open) -> None:
    with opened("hostile", SCREENS["phone"]) as page:
        folds = page.locator("details").all()
        assert len(folds) >= 10
        for fold in folds:
            head = fold.locator("> summary")
            assert head.bounding_box()["height"] >= 24  # room for a finger
            head.click()
            assert fold.evaluate("one => one.open && one.lastElementChild.checkVisibility()")
            head.click()
            assert not fold.evaluate("one => one.open || one.lastElementChild.checkVisibility()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_fold_opens_by_keys_and_shows_where_one_is(opened: Open, scheme: str) -> None:
    state = """() => {
      const one = document.activeElement, style = getComputedStyle(one), behind = [];
      for (let up = one.parentElement; up; up = up.parentElement) behind.push(getComputedStyle(up).backgroundColor);
      return {at: [...document.querySelectorAll('summary')].indexOf(one), open: one.parentElement?.open, behind,
              line: style.outlineStyle, width: parseFloat(style.outlineWidth), ink: style.outlineColor};
    }"""
    with opened("full", color_scheme=scheme) as page:
        count, reached = page.locator("summary").count(), []
        for _ in range(5 * count):
            page.keyboard.press("Tab")
            now = page.evaluate(state)
            assert now["line"] == "solid"
            assert now["width"] >= 2
            assert contrast(now["ink"], now["behind"]) >= 3
            if now["at"] < 0:
                continue  # a box that scrolls
            assert not now["open"]
            page.keyboard.press("Enter")
            assert page.evaluate(state)["open"]
            reached.append(now["at"])
            if len(reached) == count:
                break
        assert reached == list(range(count))


@pytest.mark.parametrize("kind", ["full", "many classes"])
def test_headings_and_landmarks_are_in_order(opened: Open, kind: str) -> None:
    places = """() => [...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map(one =>
      [Number(one.tagName[1]), one.innerText.trim(), one.getBoundingClientRect().top])"""
    with opened(kind, SCREENS["phone"]) as page:
        headings = page.evaluate(places)
        levels = [level for level, _, _ in headings]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        assert all(text for _, text, _ in headings)
        tops = [top for _, _, top in headings]
        assert tops == sorted(tops)  # in one column the eye meets them in the order of the file
        for landmark in ("header", "main", "footer"):
            assert page.locator(f"body > {landmark}").count() == 1
        assert page.evaluate("document.documentElement.lang") == "en"
        assert "user-scalable" not in page.locator("meta[name=viewport]").get_attribute("content")


def test_every_picture_has_a_name(opened: Open) -> None:
    with opened("hostile") as page:
        unfold(page)
        session = page.context.new_cdp_session(page)
        nodes = session.send("Accessibility.getFullAXTree")["nodes"]
        images = [node for node in nodes if not node["ignored"] and node["role"]["value"] in ("image", "img")]
        names = [node.get("name", {}).get("value", "") for node in images]
        assert len(names) == page.locator("svg, img").count() >= 4 + len(NAMES)
        assert all(name.strip() for name in names)
        assert f"{NAMES[1]}, taken for {NAMES[6]}" in names
        assert len(set(names)) == len(names)


# ---- paper -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["several students", "hostile"])
def test_paper_has_pages_and_what_cannot_be_unfolded(opened: Open, kind: str) -> None:
    with opened(kind, PAPER) as page:
        printed = page.pdf(format="A4")
        assert len(re.findall(rb"/Type\s*/Page\b", printed)) > 1
        page.emulate_media(media="print")
        shown = page.evaluate(
            """() => [...document.querySelectorAll('details')].map(one => [one.querySelector('summary').innerText,
              one.checkVisibility(), one.lastElementChild.checkVisibility({contentVisibilityAuto: true})
              && one.lastElementChild.getBoundingClientRect().height > 0])"""
        )
        kept = {title for title, fold, content in shown if content}
        assert kept >= {"Files and their sums", "The recipe", "How each number was computed"}
        assert {title for title, fold, content in shown if fold} == kept  # and no empty folds beside them
        assert page.evaluate("document.documentElement.scrollWidth") <= PAPER[0]
        assert page.evaluate(LOOSE.replace("'.wide, pre, .heat'", "'.heat'")) == []


# ---- names that want to be markup ------------------------------------------------------------------------------------


def test_hostile_names_are_shown_and_do_nothing(opened: Open) -> None:
    with opened("hostile") as page:
        unfold(page)
        title = page.title()
        assert title.startswith(f"recipe {EVIL}")
        assert page.evaluate("document.scripts.length") == 0
        assert (
            page.evaluate("document.querySelectorAll('[onload], [onerror], iframe, object, embed, form').length") == 0
        )
        section = page.locator("section", has=page.get_by_role("heading", name="Class by class"))
        names = section.locator("table").first.locator("tbody th")
        # A mark that turns text may be shown as it is or by its number.
        assert [name.replace("\\u202e", "\u202e") for name in names.all_text_contents()] == list(NAMES)
        assert all(shown.strip() for shown in names.all_inner_texts())
        assert page.locator("img").count() == len(NAMES)


def test_what_gets_in_all_the_same_is_stopped_by_the_policy(
    opened: Open, files: dict[str, Path], tmp_path: Path
) -> None:
    inside = (
        "<script>document.title = 'ran'</script><p onclick=\"document.title = 'ran'\">x</p>"
        '<img src="https://example.invalid/x.png" onerror="document.title = \'ran\'"/><iframe src="x.html"></iframe>'
    )
    file = tmp_path / "altered.html"
    file.write_text(files["full"].read_text(encoding="utf-8").replace("</main>", f"{inside}</main>"), encoding="utf-8")
    with opened(file) as page:
        page.locator("main > p").click()
        assert page.title() == f"recipe {EVIL} – distillation report"
        refused = " ".join(page.complaints)
        for kind in ("script", "event handler", "image", "fram"):
            assert kind in refused.lower()
        page.complaints.clear()


def test_without_scripts_the_page_is_the_same(opened: Open) -> None:
    layout = "[...document.querySelectorAll('body *')].map(one => JSON.stringify(one.getBoundingClientRect()))"
    seen = []
    for allowed in (True, False):
        with opened("hostile", java_script_enabled=allowed) as page:
            seen.append((page.content(), page.inner_text("body"), page.evaluate(layout)))
    assert seen[0] == seen[1]
    assert len(seen[0][2]) > 1000
