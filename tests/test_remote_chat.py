"""A chat server as a teacher: letters become a distribution, silence is told, and nothing is paid for twice."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from remote_server import OTHERS, SHARPNESS, Fake, batch_of, fake_server
from tutelage.errors import InputError, ModelError, TutelageError
from tutelage.losses import soft_target
from tutelage.objective import Objective
from tutelage.teachers import Teacher
from tutelage.teachers.remote import ChatTeacher, cost_of, open_remote
from tutelage.types import Batch, Outputs

CLASSES = ("cats", "dogs", "fish")
TEXTS = ("cats and cats", "dogs, and a fish", "nothing at all", "fish fish fish {classes} {text}")


@pytest.fixture(scope="module")
def module_server() -> Iterator[Fake]:
    with fake_server() as found:
        yield found


@pytest.fixture
def server(module_server: Fake) -> Fake:
    module_server.does(
        kind="answer", bias=0.0, blanks=0, before="", says="{}", silent=False, mute="", heeds=False, sleep=0.0,
        gives=None,
    )  # fmt: skip
    return module_server


def opened(
    server: Fake, book: Path, *, said: list[str] | None = None, classes: Sequence[str] = CLASSES, **args: Any
) -> ChatTeacher:
    tell = (lambda line: None) if said is None else said.append
    made = open_remote(
        server.model, {"model": "small", "parity": 0} | args, classes=classes, view="x", book=book, tell=tell
    )
    assert isinstance(made, ChatTeacher)
    assert isinstance(made, Teacher)
    return made


def expected(text: str, bias: float = 0.0) -> Tensor:
    """What the server's scores give, computed from its own words."""
    logits = [SHARPNESS * text.count(name) + (bias if place == 0 else 0.0) for place, name in enumerate(CLASSES)]
    return torch.tensor(logits, dtype=torch.float64).softmax(-1)


def test_probabilities_are_those_of_the_letters(server: Fake, tmp_path: Path) -> None:
    teacher = opened(server, tmp_path)
    outputs = teacher.answer(batch_of(TEXTS))
    assert isinstance(outputs.logits, Tensor)
    assert outputs.logits.dtype == torch.float32
    assert outputs.counts is not None
    assert outputs.counts.all()
    wanted = torch.stack([expected(text) for text in TEXTS])
    torch.testing.assert_close(outputs.logits.double().exp(), wanted, rtol=0, atol=1e-6)


def test_rows_come_in_order_and_equal_texts_are_asked_once(server: Fake, tmp_path: Path) -> None:
    teacher = opened(server, tmp_path, in_flight=5)
    texts = [f"text {number} of dogs" if number % 2 else f"text {number} of cats" for number in range(24)]
    before = server.counts()["paid"]
    found = teacher.answer(batch_of([*texts, *texts])).logits
    assert server.counts()["paid"] - before == 24
    assert isinstance(found, Tensor)
    assert found.argmax(-1).tolist() == [number % 2 for number in range(24)] * 2


def test_no_more_requests_are_under_way_than_allowed(tmp_path: Path) -> None:
    with fake_server() as server:
        server.does(sleep=0.03)
        opened(server, tmp_path, in_flight=3).answer(batch_of([f"cats {number}" for number in range(12)]))
        counts = server.counts()
    assert counts["most"] == 3
    assert counts["paid"] == 12


def test_the_request_is_that_of_the_protocol(tmp_path: Path) -> None:
    with fake_server() as server:
        args = {"system": "Be brief.", "describe": {"cats": "small tigers"}, "body": {"max_tokens": None, "seed": 7}}
        opened(server, tmp_path, top=5, **args).answer(batch_of(["a {text}"]))
        (body,) = map(json.loads, server.counts()["bodies"])
    question = body["messages"][1]["content"]
    assert question.startswith("Which of these classes fits the text best?\n\nA. small tigers\nB. dogs\nC. fish\n\n")
    assert "\nText:\na {text}\n\nAnswer with the letter of the class alone." in question
    del body["messages"][1]
    assert body == {
        "model": "small", "messages": [{"role": "system", "content": "Be brief."}], "temperature": 0.0,
        "logprobs": True, "top_logprobs": 5, "seed": 7,
    }  # fmt: skip


@pytest.mark.parametrize("manner", [{"before": " "}, {"before": "▁"}, {"blanks": 2}], ids=["blank", "piece", "line"])
def test_tokens_that_differ_in_their_writing_are_one(server: Fake, tmp_path: Path, manner: dict[str, Any]) -> None:
    server.does(**manner)
    found = opened(server, tmp_path).answer(batch_of(TEXTS[:2])).logits
    assert isinstance(found, Tensor)
    torch.testing.assert_close(
        found.double().exp(), torch.stack([expected(text) for text in TEXTS[:2]]), rtol=0, atol=1e-6
    )


def test_completions_of_older_servers_say_the_same(server: Fake, tmp_path: Path) -> None:
    modern = opened(server, tmp_path / "a").answer(batch_of(TEXTS)).logits
    legacy = opened(server, tmp_path / "b", api="completions").answer(batch_of(TEXTS)).logits
    assert isinstance(modern, Tensor)
    torch.testing.assert_close(modern, legacy, rtol=0, atol=0)
    assert server.counts()["heads"][-1]["path"] == "/v1/completions"


def test_orders_average_out_what_a_letter_is_liked_for(server: Fake, tmp_path: Path) -> None:
    server.does(bias=1.5)
    flat = batch_of(["nothing of these", "a fish"])
    biased = opened(server, tmp_path, classes=CLASSES).answer(flat).logits
    fair = opened(server, tmp_path, permute=3).answer(flat).logits
    assert isinstance(biased, Tensor)
    assert isinstance(fair, Tensor)
    torch.testing.assert_close(biased[0].double().exp(), expected("", 1.5), rtol=0, atol=1e-6)
    torch.testing.assert_close(fair[0].exp(), torch.full((3,), 1 / 3), rtol=0, atol=1e-6)
    # The mean over the letter that "fish" has in turn, computed by hand.
    by_hand = torch.zeros(3, dtype=torch.float64)
    for shift in range(3):
        logits = torch.tensor([0.0, 0.0, SHARPNESS], dtype=torch.float64)
        logits[shift] += 1.5  # the class that stands first
        by_hand += logits.softmax(-1) / 3
    torch.testing.assert_close(fair[1].double().exp(), by_hand, rtol=0, atol=1e-6)


def test_one_answer_is_a_smoothed_label(server: Fake, tmp_path: Path) -> None:
    server.does(silent=True, says="Answer: {}.")
    found = opened(server, tmp_path, answers="label").answer(batch_of(TEXTS[:1])).logits
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found[0].exp(), torch.tensor([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3]), rtol=0, atol=1e-6)


def test_samples_come_in_one_request_or_are_refused(server: Fake, tmp_path: Path) -> None:
    server.does(silent=True)
    found = opened(server, tmp_path / "a", answers="samples", samples=4).answer(batch_of(TEXTS[:1])).logits
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found[0].exp(), torch.tensor([0.8 + 0.2 / 3, 0.2 / 3, 0.2 / 3]), rtol=0, atol=1e-6)
    server.does(gives=1)
    with pytest.raises(ModelError, match="fewer answers") as caught:
        opened(server, tmp_path / "b", answers="samples").answer(batch_of(TEXTS[:1]))
    assert "answers: label" in str(caught.value)


def test_more_classes_than_letters_are_numbers(server: Fake, tmp_path: Path) -> None:
    classes = [f"kind-{number:02d}" for number in range(30)]
    with pytest.raises(InputError, match="more classes than letters"):
        opened(server, tmp_path, classes=classes)
    server.does(silent=True)
    found = opened(server, tmp_path, classes=classes, answers="label").answer(batch_of(["it is kind-17"])).logits
    assert isinstance(found, Tensor)
    assert found.argmax(-1).tolist() == [17]


def test_silence_is_asked_once_more_then_left_out_and_told(server: Fake, tmp_path: Path) -> None:
    server.does(mute="secret")
    said: list[str] = []
    before = server.counts()["paid"]
    teacher = opened(server, tmp_path, said=said)
    batch = batch_of(["cats", "a secret", "dogs", "secret two"])
    outputs = teacher.answer(batch)
    assert server.counts()["paid"] - before == 6
    assert outputs.counts is not None
    assert outputs.counts.tolist() == [True, False, True, False]
    assert isinstance(outputs.logits, Tensor)
    assert outputs.logits[1].unique().numel() == 1
    assert any("2 of 4 examples so far (50.0%)" in line for line in said)
    # Both silences stand in the book: another start pays for nothing, and knows the same.
    again = opened(server, tmp_path).answer(batch)
    assert server.counts()["paid"] - before == 6
    assert again.counts is not None
    assert torch.equal(again.counts, outputs.counts)
    # A loss that listens to the teacher is about the others only.
    student = torch.randn(4, 3)
    objective = Objective([soft_target])
    both = objective(Outputs(student), outputs, batch).loss
    some = torch.tensor([0, 2])
    alone = Outputs(outputs.logits[some])
    kept = Batch(batch.ids[some], {"x": batch.inputs["x"][some]}, batch.target[some])
    torch.testing.assert_close(both, objective(Outputs(student[some]), alone, kept).loss)


def test_a_reminder_may_help(server: Fake, tmp_path: Path) -> None:
    server.does(mute="secret", heeds=True)
    outputs = opened(server, tmp_path).answer(batch_of(["a secret of cats"]))
    assert outputs.counts is not None
    assert outputs.counts.all()
    assert isinstance(outputs.logits, Tensor)
    assert outputs.logits.argmax(-1).tolist() == [0]


def test_agreement_is_told_and_paid_for_once(server: Fake, tmp_path: Path) -> None:
    said: list[str] = []
    before = server.counts()["paid"]
    for _ in range(2):
        opened(server, tmp_path, said=said, parity=4).answer(batch_of([f"cats {number}" for number in range(6)]))
    assert server.counts()["paid"] - before == 6 + 4
    assert sum("4 questions asked twice, the same class in 4 of them" in line for line in said) == 2


def test_what_is_told_stays_little(server: Fake, tmp_path: Path) -> None:
    server.does(mute="secret")
    said: list[str] = []
    teacher = opened(server, tmp_path, said=said)
    for start in range(0, 32, 4):
        teacher.answer(batch_of([f"secret {start + number}" if number % 2 else f"cats {start}" for number in range(4)]))
    # At first everything; then silence, when 2, 4, 8 and 16 examples have none.
    assert sum("the classes hold" in line for line in said) == 1
    assert [re.search(r"(\d+) of \d+ examples", line)[1] for line in said if "examples so far" in line] == [
        "2", "4", "8", "16",
    ]  # fmt: skip
    requests, mass, again, silent = teacher.summary()
    assert requests.startswith(f"teacher small (127.0.0.1:{server.port}): 40 requests, ")
    others = sum(map(math.exp, OTHERS.values()))
    letters = math.exp(SHARPNESS) + 2
    assert f"the classes hold {letters / (letters + others):.1%} " in mass
    assert "16 answers named no class" in again
    assert "16 of 24 examples so far (66.7%)" in silent


def test_other_ways_to_read_answers_cost_nothing(server: Fake, tmp_path: Path) -> None:
    first = opened(server, tmp_path)
    first.answer(batch_of(TEXTS))
    before = server.counts()["requests"]
    second = opened(server, tmp_path, floor=1e-3, timeout=5.0)
    second.answer(batch_of(TEXTS))
    assert server.counts()["requests"] == before
    assert first.fingerprint() != second.fingerprint()


def test_the_fingerprint_is_of_what_decides(server: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "abc")
    one = opened(server, tmp_path)
    same = opened(server, tmp_path / "other", in_flight=2, key_env="TEACHER_KEY", seed=3, price={"in": 1.0, "out": 1.0})
    assert one.fingerprint() == same.fingerprint()
    others = [{"model": "large"}, {"prompt": "{classes}? {text}"}, {"permute": 2}, {"temperature": 0.5}, {"least": 0.1}]
    assert len({opened(server, tmp_path, **other).fingerprint() for other in [{}, *others]}) == 6
    assert opened(server, tmp_path, classes=CLASSES[::-1]).fingerprint() != one.fingerprint()


CHILD = textwrap.dedent("""
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[3])
    from remote_server import batch_of
    from tutelage.teachers.remote import open_remote
    args = {"model": "small", "in_flight": 4, "parity": 0}
    teacher = open_remote(sys.argv[1], args, classes=("cats", "dogs", "fish"), view="x", book=Path(sys.argv[2]))
    found = teacher.answer(batch_of([f"cats {n}" for n in range(40)])).logits
    print(found.argmax(-1).sum().item(), len(found))
""")


def test_a_kill_in_the_middle_pays_for_nothing_twice(tmp_path: Path) -> None:
    with fake_server() as server:
        server.does(sleep=0.05)
        words = [sys.executable, "-c", CHILD, server.model, str(tmp_path), str(Path(__file__).parent)]
        with subprocess.Popen(words) as killed, subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
            # Both share one book, ask the same questions, and one of them dies at that.
            until = time.monotonic() + 60
            while server.counts()["paid"] < 14 and time.monotonic() < until:
                time.sleep(0.01)
            os.kill(killed.pid, signal.SIGKILL)
            assert 14 <= server.counts()["paid"] < 40
            assert other.communicate(timeout=60)[0] == "0 40\n"
        assert killed.returncode == -signal.SIGKILL
        counts = server.counts()
        assert len(counts["bodies"]) == 40
        assert counts["paid"] <= 40 + 4
        # Whoever comes later asks nothing at all.
        again = opened(server, tmp_path).answer(batch_of([f"cats {number}" for number in range(40)]))
        assert isinstance(again.logits, Tensor)
        assert again.logits.argmax(-1).tolist() == [0] * 40
        assert server.counts()["requests"] == counts["requests"]


def test_a_budget_stops_with_what_there_is(server: Fake, tmp_path: Path) -> None:
    texts = [f"cats {number}" for number in range(10)]
    before = server.counts()["requests"]
    for _ in range(2):  # the second start has the same purse
        with pytest.raises(TutelageError, match="budget") as caught:
            opened(server, tmp_path, budget={"requests": 6}).answer(batch_of(texts))
        assert "6 requests" in str(caught.value)
        assert server.counts()["requests"] - before == 6
    masked = opened(server, tmp_path, budget={"requests": 6, "then": "mask"}, in_flight=1).answer(batch_of(texts))
    assert masked.counts is not None
    # A purse belongs to one way of asking; this one may ask six more, and finds six in the book.
    assert masked.counts.tolist() == [True] * 10
    opened(server, tmp_path, budget={"requests": 60}).answer(batch_of(texts))
    assert server.counts()["requests"] - before == 10


def test_a_spent_budget_masks_the_rest(server: Fake, tmp_path: Path) -> None:
    args: dict[str, Any] = {
        "budget": {"money": 2.1e-4, "then": "mask"},
        "price": {"in": 0.0, "out": 50.0},
        "in_flight": 1,
    }
    outputs = opened(server, tmp_path, **args).answer(batch_of([f"dogs {number}" for number in range(6)]))
    assert outputs.counts is not None
    # The server counts one token each, 5e-5; a request is let go where four, the most it may say, still fit.
    assert outputs.counts.tolist() == [True] + [False] * 5
    with pytest.raises(InputError, match="needs a price"):
        opened(server, tmp_path, budget={"money": 1.0})


def test_a_budget_that_ends_among_orders_leaves_no_halves(server: Fake, tmp_path: Path) -> None:
    args: dict[str, Any] = {"budget": {"requests": 4, "then": "mask"}, "permute": 3, "in_flight": 1}
    outputs = opened(server, tmp_path, **args).answer(batch_of(["one of cats", "two of cats", "three of cats"]))
    assert outputs.counts is not None
    assert outputs.counts.tolist() == [True, False, False]


def test_an_estimate_comes_near_what_is_asked(server: Fake, tmp_path: Path) -> None:
    args = {"model": "small", "price": {"in": 2.0, "out": 10.0}, "permute": 2}
    cost = cost_of(server.model, args, classes=CLASSES, examples=1000, text_bytes=400.0)
    assert cost.requests == (1000 + 4) * 2
    assert cost.tokens_out == cost.requests * 4
    teacher = opened(server, tmp_path, permute=2)
    before = len(server.counts()["bodies"])
    teacher.answer(batch_of(["x" * 400]))
    bodies = map(json.loads, list(server.counts()["bodies"])[before:])
    sizes = [len(body["messages"][0]["content"]) for body in bodies]
    assert cost.tokens_in == pytest.approx(cost.requests * np.mean(sizes) / 4, rel=0.01)
    assert cost.money == pytest.approx((cost.tokens_in * 2 + cost.tokens_out * 10) / 1e6)
    assert cost.lines()[0].startswith("about 2,008 requests")
    with pytest.raises(InputError):
        cost_of("https://example.invalid", {}, classes=CLASSES, examples=1, text_bytes=1.0)


def test_what_is_no_plain_text_is_refused(server: Fake, tmp_path: Path) -> None:
    batch = Batch(torch.arange(2), {"x": torch.rand(2, 5)}, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(InputError, match="plain texts"):
        opened(server, tmp_path).answer(batch)


def test_a_server_without_log_probabilities_is_told_from_one_with(server: Fake, tmp_path: Path) -> None:
    server.does(silent=True)
    with pytest.raises(ModelError, match="tells no log-probabilities") as caught:
        opened(server, tmp_path).answer(batch_of(["cats"]))
    assert "answers: label" in str(caught.value)
