"""What is said in another language: looking texts up, and that none is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tutelage
from command_line import call
from tutelage import lang
from tutelage.errors import InputError, Problem, RecipeError
from tutelage.lang.catalogue import Translator, check_gaps, translator
from tutelage.lang.extract import templates
from tutelage.lang.markdown import say_markdown

SMALL = Translator(
    {
        "no model `{0}`": "没有模型 `{0}`",
        "{0} in {1}": "{1} 中的 {0}",
        "{0} holds the weights of another model": "{0} 是另一个模型的权重",
        "{0} holds {1}": "{0} 含有 {1}",
        "none": "无",
        "{0} seeds": "{0} 个种子",
        "Mean over {0}.": "对 {0} 取平均。",
        "Right of 0 it helped.": "0 的右侧表示有益。",
        "{0} faster": "加速 {0}",
    }
)


def missing() -> list[str]:
    found = templates(Path(tutelage.__file__).parent)
    assert len(found) > 1500
    return [f"{one.file}:{one.line}: {one.template}" for one in lang.missing(found, "zh")]


def test_every_text_of_the_program_has_a_translation() -> None:
    """`python -m tutelage.lang.extract zh` prints the same list; the catalogue is `tutelage/lang/zh.json`."""
    assert missing() == []


def test_a_text_without_a_translation_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "room.py").write_text(
        '''"""A docstring is no text."""
def work(name, count):
    raise InputError(f"no {name} in the house", fix="look into the cellar" if count else None, given=f"{count} rooms")
def picture(tag, title):
    return tag("p", "Rooms", title, class_="wide card here"), {"a key of ours": 1}
@cli.command()
def rooms():
    """List the rooms.

    More of them
    another day.
    """
''',
        encoding="utf-8",
    )
    found = [one.template for one in templates(tmp_path)]
    texts = ["no {0} in the house", "look into the cellar", "{0} rooms", "Rooms", "List the rooms."]
    assert set(found) >= {*texts, "More of them another day."}
    assert not {"A docstring is no text.", "wide card here", "a key of ours"} & set(found)


def test_no_translation_names_a_gap_that_its_text_lacks() -> None:
    import json

    text = Path(lang.__file__).with_name("zh.json").read_text(encoding="utf-8")
    entries = json.loads(text)
    assert list(check_gaps(entries)) == []
    assert [key for key, said in entries.items() if not said.strip()] == []
    # Two entries for one text would be one too many, and a parser takes the last without a word.
    assert len(entries) == len(json.loads(text, object_pairs_hook=list))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("none", "无"),
        ("no model `cnm`", "没有模型 `cnm`"),
        ("12 in none", "无中的 12"),
        ("3 seeds", "3 个种子"),
        ("Mean over 3 seeds.", "对 3 个种子取平均。"),
        ("9.1× faster, 3 seeds", "加速 9.1×，3 个种子"),
        ("nothing of the kind", "nothing of the kind"),
        (" none ", "无"),
        ("0.5 … 0.7", "0.5 … 0.7"),
    ],
)
def test_a_text_is_looked_up_whole_by_template_and_by_parts(text: str, said: str) -> None:
    assert SMALL.translate(text) == said


def test_of_several_templates_the_longer_one_wins() -> None:
    assert SMALL.translate("a.pt holds the weights of another model") == "a.pt 是另一个模型的权重"
    assert SMALL.translate("a.pt holds 3") == "a.pt 含有 3"


def test_a_template_of_few_letters_does_not_swallow_sentences() -> None:
    said = "the greatest of them stands in a corner of the room"
    assert SMALL.translate(said) == said
    assert SMALL.translate("tutelage seeds") == "tutelage seeds"


def test_a_template_of_one_sentence_does_not_swallow_the_next() -> None:
    assert SMALL.translate("Mean over 3 seeds. Right of 0 it helped.") == "对 3 个种子取平均。0 的右侧表示有益。"


def test_names_of_the_data_stay() -> None:
    assert SMALL.translate("none", frozenset({"none"})) == "none"
    assert SMALL.translate("no model `none`", frozenset({"none"})) == "没有模型 `none`"


def test_what_stands_in_quotation_marks_is_a_name() -> None:
    assert SMALL.translate("no model `none`") == "没有模型 `none`"
    assert translator("zh").translate("known names: epoch, loss") == "已知名称：epoch, loss"


def test_numbers_keep_what_a_browser_must_not_part() -> None:
    assert SMALL.translate("Mean over 3\u00a0seeds.") == "对 3 个种子取平均。"
    assert SMALL.translate("Mean over 9\u00a0ms.") == "对 9\u00a0ms 取平均。"


@given(st.text(alphabet="ab {}[]()`‘’.,:;%0123\n\u00a0\\$^*+?|", max_size=60))
def test_any_text_is_answered_with_a_text(text: str) -> None:
    assert isinstance(translator("zh").translate(text), str)
    assert isinstance(SMALL.translate(text), str)


@pytest.mark.parametrize("word", ["zh", "ZH", "zh-CN", "zh_CN.UTF-8", " zh ", "zh-Hans"])
def test_a_language_is_known_by_its_usual_names(word: str) -> None:
    assert lang.parse(word) == "zh"


def test_another_language_is_refused() -> None:
    with pytest.raises(InputError, match="no language `fr`"):
        lang.parse("fr")


def test_a_language_is_spoken_for_a_while() -> None:
    with lang.speaking("zh"):
        assert lang.say("no command `rnu`") == "没有命令 `rnu`"
        with lang.speaking(names=["no command `rnu`"]):
            assert lang.say("no command `rnu`") == "no command `rnu`"
    assert lang.say("no command `rnu`") == "no command `rnu`"


def test_all_problems_of_a_recipe_are_told() -> None:
    problems = [
        Problem("unknown key `epoch`", "line 3", fix="did you mean `epochs`?"),
        Problem("a weight is wrong here", None, "-1", "a number ≥ 0"),
    ]
    error = RecipeError(problems)
    assert lang.say_error(error) == str(error)
    with lang.speaking("zh"):
        said = lang.say_error(error).split("\n")
    assert said[0] == "2 个问题"
    assert said[1].startswith("未知的键 `epoch`（")
    assert said[2] == "提示：是指 `epochs` 吗？"
    assert said[3:] == ["a weight is wrong here", "  实际  -1", "  应为  数 ≥ 0"]


def test_markdown_keeps_code_head_and_backslashes() -> None:
    card = (
        "---\nlicense: none\n---\n# none\n\n- no model \\`a\\_b\\`\n| model | none |\n```python\nnone\n```\n"
        "<details><summary>none</summary>\n"
    )
    with lang.speaking("zh"):
        said = say_markdown(card)
    expected = (
        "---\nlicense: none\n---\n# 无\n\n- 没有模型 \\`a\\_b\\`\n| 模型 | 无 |\n```python\nnone\n```\n"
        "<details><summary>无</summary>\n"
    )
    assert said == expected
    assert say_markdown(card) == card


@pytest.mark.parametrize(
    "words",
    [("--lang", "zh", "run", "nope.yaml"), ("run", "nope.yaml", "--lang", "zh"), ("run", "--lang=zh", "nope.yaml")],
)
def test_the_command_line_answers_in_the_language_asked_for(words: tuple[str, ...]) -> None:
    outcome = call(*words)
    assert outcome.code == 2
    assert outcome.err.startswith("错误：没有这个配方：nope.yaml\n提示：")
    assert lang.language() == "en"


def test_the_environment_names_a_language_and_the_flag_overrules_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_LANG", "zh_CN.UTF-8")
    assert call("rnu").err == "错误：没有命令 `rnu`\n提示：是指 `run` 吗？\n"
    assert call("--lang", "en", "rnu").err == "error: no command `rnu`\nhint: did you mean `run`?\n"


def test_a_language_that_is_not_there_is_said_in_english(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = call("schema", "--lang", "fr")
    assert outcome.code == 2
    assert "no language `fr` (--lang)" in outcome.err
    monkeypatch.setenv("TUTELAGE_LANG", "xx")
    assert "no language `xx` (TUTELAGE_LANG)" in call("schema").err


def test_what_the_parser_refuses_is_translated_before_it_is_parsed() -> None:
    outcome = call("run", "--lang", "zh")
    assert outcome.code == 2
    assert "错误：缺少参数 'RECIPE'。" in outcome.err
    assert "没有选项" in call("run", "r.yaml", "--lang", "zh", "--bad").err


def test_help_pages_are_translated_and_commands_keep_their_names() -> None:
    shown = call("--lang", "zh", "--help").out
    assert "用法：tutelage" in shown
    assert re.search(r"^  run +运行一个 RECIPE", shown, re.MULTILINE)
    assert "退出码：" in shown
    assert "--overwrite" in call("run", "--help", "--lang", "zh").out


def test_the_docstring_and_the_arguments_of_a_loss_stay_english() -> None:
    english, chinese = (call("methods", "introspective", "--lang", tongue).out.split("\n") for tongue in ("en", "zh"))
    changed = [(before, after) for before, after in zip(english, chinese, strict=True) if before != after]
    assert [after.partition("：")[0] for _, after in changed] == ["introspective", "读取", "默认值", "代价", "在配方中"]
    kept = [pair for pair in changed if not pair[0].startswith("Cost:")]  # its words are ours, not the docstring's
    assert [after.partition("：")[2] for _, after in kept] == [before.partition(":")[2].lstrip() for before, _ in kept]


def test_json_stays_english() -> None:
    assert call("methods", "--json", "--lang", "zh").out == call("methods", "--json").out
