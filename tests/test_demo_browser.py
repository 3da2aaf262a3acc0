"""The demo's page in a real browser: it computes what ONNX Runtime computes, and every way to an image leads there.

Every page of every test is closed by `opened`, which fails where the console complained, or anything but the page's own
server was asked.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from browser_questions import COLOURS, LOOSE, colour, contrast, faint, light
from demo_parts import finished_run, png, served
from tutelage.demo import Exhibit, Server, prepare
from tutelage.demo.exhibit import Picked
from tutelage.demo.picture import as_pixels
from tutelage.demo.teacher import TeacherAtHand

driver = pytest.importorskip("playwright.sync_api", reason="needs playwright, which drives a browser")
onnx = pytest.importorskip("onnx", reason="needs onnx, which writes the student for the browser")
runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, to compare the browser with")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium to open the page in")

Open = Callable[..., Any]
DESK, PHONE = (1280, 900), (320, 640)
PIXELS = """() => {
  const one = document.getElementById('seen');
  const data = one.getContext('2d').getImageData(0, 0, one.width, one.height).data;
  return {width: one.width, height: one.height, data: [...data]};
}"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Exhibit:
    return prepare(finished_run(tmp_path_factory.mktemp("demo") / "run", seeds=[3]))


@pytest.fixture(scope="module")
def coloured() -> Exhibit:
    """A student and a teacher of RGB images that are not square: each class is the mean of one colour, or its lack."""
    shape, classes = (3, 6, 9), ("red", "green", "blue", "<b>bold</b>")
    weights = np.kron(np.eye(4, 3, dtype=np.float32), np.full(54, 0.1, np.float32))
    weights[3] = -0.05
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])],
        "student", [helper.make_tensor_value_info("input", 1, ["batch", *shape])],
        [helper.make_tensor_value_info("logits", 1, ["batch", 4])], [onnx.numpy_helper.from_array(weights.T, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(162, 4, bias=False))
    teacher[1].weight.data = torch.from_numpy(weights.copy())
    images = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    return Exhibit(
        run="colours <i>", arm="scratch", seed=0, classes=classes, shape=shape,
        files={"onnx": model.SerializeToString()}, teacher=TeacherAtHand(teacher, threads=1), images=images,
        picked=(Picked(0, 1, 2), Picked(3, 3, 3)), light_ground=True, threads=1, names=frozenset(classes),
        notices=("not shown in 8 bits: it is a test",),
    )  # fmt: skip


@pytest.fixture(scope="module")
def server(shown: Exhibit) -> Iterator[Server]:
    with served(shown) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with driver.sync_playwright() as started:
        # Containers and CI run as root, where Chromium's sandbox does not start.
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def opened(browser: Any, server: Server) -> Open:
    """Opens the page at a size, once the student has answered, and looks over its shoulder until it is closed."""

    @contextmanager
    def visit(
        size: tuple[int, int] = DESK, *, of: Server = server, complains: str = "", **options: Any
    ) -> Iterator[Any]:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        context.set_default_timeout(20_000)
        page, complaints, fetched = context.new_page(), [], []
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        context.on("request", lambda request: fetched.append(request.url))
        page.goto(of.address)
        page.locator("body[data-state=ready]").wait_for()
        rested(page)
        yield page
        context.close()
        assert [one for one in complaints if not complains or complains not in one] == []
        assert {url[: len(of.address)] for url in fetched} == {of.address}

    return visit


def rested(page: Any) -> None:
    """Wait until both have answered about the image now shown, and their times are there."""
    for whose in ("student", "teacher"):
        page.locator(f"#{whose}[aria-busy=false]").wait_for()


def logits(page: Any, whose: str = "student") -> np.ndarray[Any, Any]:
    rested(page)
    return np.array(json.loads(page.get_attribute(f"#{whose}", "data-logits")))


def seen(page: Any) -> np.ndarray[Any, Any]:
    """The bytes (H, W, 3) that the page says the models see."""
    found = page.evaluate(PIXELS)
    return np.array(found["data"], np.uint8).reshape(found["height"], found["width"], 4)[..., :3]


def by_runtime(exhibit: Exhibit, pixels: np.ndarray[Any, Any], key: str = "onnx") -> np.ndarray[Any, Any]:
    return runtime.InferenceSession(exhibit.files[key]).run(None, {"input": pixels[None].astype(np.float32)})[0][0]


@contextmanager
def another(page: Any) -> Iterator[None]:
    """Something that changes the image; both have answered about the new one when it ends."""
    before = page.get_attribute("body", "data-turn")
    yield
    page.locator(f"body:not([data-turn='{before}'])").wait_for()
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    rested(page)


def pick(page: Any, number: int) -> None:
    with another(page):
        page.locator(".strip button").nth(number).click()


def line(page: Any, *places: tuple[float, float]) -> None:
    """Draw a line by mouse through places on the sheet, in shares of its width and height."""
    page.locator("#paper").scroll_into_view_if_needed()
    box = page.locator("#paper").bounding_box()
    where = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    with another(page):
        page.mouse.move(*where[0])
        page.mouse.down()
        for one in where[1:]:
            page.mouse.move(*one, steps=6)
        page.mouse.up()


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_the_browser_answers_as_onnx_runtime_does(opened: Open, shown: Exhibit) -> None:
    with opened() as page:
        for key in shown.files:
            page.locator(f"[value={key}]").check()
            for number in (len(shown.picked) - 1, 1):
                pick(page, number)
                check_answers(page, shown, number, key)


def check_answers(page: Any, shown: Exhibit, number: int, key: str) -> None:
    """That both answers about a test image are right, and shown as they are."""
    expected, said = by_runtime(shown, shown.images[number], key), shown.teacher.ask(shown.images[number]).logits
    assert np.abs(logits(page) - expected).max() <= 1e-3
    assert np.abs(logits(page, "teacher") - said).max() <= 1e-6
    assert np.array_equal(seen(page)[..., 0], np.rint(255 * shown.images[number][0]).astype(np.uint8))
    for whose, own in (("student", expected), ("teacher", said)):
        shares = np.exp(own - own.max()) / np.exp(own - own.max()).sum()
        best = np.argsort(-own, kind="stable")[:3]
        assert page.locator(f"#{whose} .name").all_inner_texts() == [shown.classes[one] for one in best]
        told = [float(text.removesuffix(" %")) for text in page.locator(f"#{whose} .share").all_inner_texts()]
        assert told == pytest.approx(100 * shares[best], abs=0.06)
        assert page.inner_text(f"#{whose}-time").endswith(" ms")
    same = int(expected.argmax()) == int(said.argmax())
    assert page.inner_text("#said").startswith("Both say" if same else "They differ")
    assert page.inner_text("#also") == f"True class: {shown.classes[shown.picked[number].true]}."


def test_drawing_changes_the_answer_and_is_what_the_models_see(opened: Open, shown: Exhibit) -> None:
    with opened() as page:
        before = logits(page)
        page.click("#clear")
        assert page.inner_text("#said") == "Draw something, or choose an image."
        assert page.get_attribute("#student", "data-logits") is None
        assert not seen(page).any()
        line(page, (0.55, 0.15), (0.55, 0.85))
        first, pixels = logits(page), seen(page)
        assert np.abs(first - before).max() > 1e-3
        assert pixels[4, 4].all()
        assert not pixels[:, [0, 7]].any()
        assert np.abs(first - by_runtime(shown, pixels[None, ..., 0] / np.float32(255))).max() <= 1e-3
        assert page.locator("[aria-pressed=true]").count() == 0
        page.locator("#rubber").check()
        line(page, (0.55, 0.6), (0.55, 0.9))
        assert 0 < int(seen(page).astype(int).sum()) < int(pixels.astype(int).sum())
        with another(page):
            page.click("#invert")
        assert seen(page)[0, 0].tolist() == [255, 255, 255]


def test_fingers_and_keys_draw_as_well(opened: Open) -> None:
    with opened(PHONE, has_touch=True) as page:
        page.click("#clear")
        with another(page):
            page.locator("#paper").tap()
        assert seen(page)[3:5, 3:5].any()
        page.click("#clear")
        page.locator("#paper").focus()
        with another(page):
            for key in ("ArrowUp", "ArrowUp", "Space", "ArrowRight", "ArrowRight", "ArrowRight", "Space", "ArrowDown"):
                page.keyboard.press(key)
        drawn = seen(page)[..., 0]
        assert drawn[1:3, 4:7].any(axis=0).all()
        assert not drawn[4:].any()
        assert page.locator("#cross").is_visible()


def test_an_upload_is_prepared_as_training_examples_are_and_trouble_is_told(opened: Open, shown: Exhibit) -> None:
    file = png(np.random.default_rng(1).integers(100, 256, (40, 30, 3)).astype(np.uint8))
    pixels = as_pixels(file, shown.shape)
    with opened(complains="Failed to load resource") as page:  # which Chromium says of every answer that refuses
        with another(page):
            page.set_input_files("#upload", {"name": "cat.png", "mimeType": "image/png", "buffer": file})
        assert page.inner_text("#hint").startswith("The training images have a dark ground and this one a light one")
        assert np.abs(logits(page) - by_runtime(shown, pixels)).max() <= 1e-3
        assert np.array_equal(seen(page)[..., 0], np.rint(255 * pixels[0]).astype(np.uint8))
        page.set_input_files("#upload", {"name": "bad.png", "mimeType": "image/png", "buffer": file[:60]})
        page.locator("#trouble", has_text="this file cannot be used as an image").wait_for()
        pick(page, 0)
        assert page.locator("#trouble, #hint").locator("visible=true").count() == 0
        page.context.set_offline(True)
        page.click("#invert")
        page.locator("#trouble", has_text="The program that serves this page does not answer").wait_for()
        assert page.inner_text("#said").startswith("The student says")


def test_images_in_colour_and_names_that_look_like_markup(opened: Open, coloured: Exhibit) -> None:
    with served(coloured) as other, opened(of=other) as page:
        assert page.title() == "colours <i> – try it"
        assert page.locator(".notices li").all_inner_texts() == ["not shown in 8 bits: it is a test"]
        assert np.abs(logits(page) - by_runtime(coloured, coloured.images[0])).max() <= 1e-3
        page.click("#clear")
        assert (seen(page) == 255).all()
        page.locator("#paint").fill("#00ff00")
        line(page, (0.1, 3.5 / 6), (0.9, 3.5 / 6))
        pixels = seen(page)
        assert pixels.shape == (6, 9, 3)
        assert pixels[3, 4].tolist() == [0, 255, 0]
        values = np.moveaxis(pixels, -1, 0) / np.float32(255)
        assert np.abs(logits(page) - by_runtime(coloured, values)).max() <= 1e-3
        pick(page, 1)
        assert page.inner_text("#also") == "True class: <b>bold</b>."


def test_a_student_that_cannot_be_started_is_told_in_words(browser: Any, shown: Exhibit) -> None:
    with served(replace(shown, files={"onnx": b"no model"})) as other:
        page = browser.new_page()
        page.goto(other.address)
        page.locator("body[data-state=failed]").wait_for(timeout=20_000)
        assert page.inner_text("#trouble").startswith("The student could not be started in this browser: ")
        page.close()


# ---- how it looks ----------------------------------------------------------------------------------------------------


def test_nothing_runs_off_the_screen_and_text_stands_out(opened: Open) -> None:
    with opened() as page:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            ground = light(colour(page.evaluate("getComputedStyle(document.body).backgroundColor")))
            assert ground > 0.8 if scheme == "light" else ground < 0.05
            found = page.evaluate(COLOURS)
            assert len(found) > 10
            assert faint(found) == {}
            edge = page.locator("#clear").evaluate(
                "one => [getComputedStyle(one).borderTopColor, getComputedStyle(one).backgroundColor]"
            )
            assert contrast(edge[0], [edge[1]]) >= 3
        for width, height in (DESK, PHONE):
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(LOOSE.replace("'.wide, pre, .heat'", "'.strip, .apart'")) == []
            for one in page.locator("button, .button, input:not(.apart)").all():
                small = one.get_attribute("type") in ("range", "checkbox", "radio")  # their labels are larger
                assert one.bounding_box()["height"] >= (16 if small else 24)


def test_everything_is_reached_by_keys_and_has_a_name_and_nothing_else_runs(opened: Open) -> None:
    with opened(complains="Content Security Policy") as page:
        wanted = page.locator("button, input:not([type=radio]), #paper").count() + 1  # of radios, the chosen one
        reached: list[str] = []
        for _ in range(wanted):
            page.keyboard.press("Tab")
            state = page.evaluate(
                """() => {
                  const one = document.activeElement;
                  const shown = one.matches('.apart') ? one.nextElementSibling : one;
                  const style = getComputedStyle(shown);
                  return [one.id || one.value || one.textContent, style.outlineStyle, parseFloat(style.outlineWidth)];
                }"""
            )
            reached.append(state[0])
            assert state[1] == "solid"
            assert state[2] >= 2
        assert {"paper", "pen", "rubber", "clear", "invert", "upload", "onnx"} <= set(reached)
        nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        roles = ("button", "checkbox", "radio", "slider", "image", "application")
        names = [one.get("name", {}).get("value", "") for one in nodes
                 if not one["ignored"] and one["role"]["value"] in roles]  # fmt: skip
        assert len(names) >= wanted
        assert all(name.strip() for name in names)
        # What gets in all the same is stopped by the policy.
        page.evaluate(
            """() => {
              const one = document.createElement('script');
              one.textContent = 'document.title = "ran"';
              document.body.append(one);
            }"""
        )
        assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'asked', () => 'stopped')") == "stopped"
        assert page.title() == "tiny – try it"
