from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openm3.errors import InputError
from openm3.text.dialect import HERMES, M3, PLAIN, Dialect, dialect_of
from openm3.text.parse import Answer, AnswerParser, Parsed, Part, Thinking, ToolCall, collect, parse

N = "]<]minimax[>["
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {
                "properties": {
                    "text": {"type": "string"},
                    "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "n": {"type": "number"},
                    "list": {"type": "array", "items": {"type": "integer"}},
                    "odd": True,
                }
            },
        },
    }
]


def m3_call(arguments: str, name: str = "f") -> str:
    return f'{N}<invoke name="{name}">{arguments.replace("~", N)}{N}</invoke>\n'


def m3_block(*calls: str) -> str:
    return f"{N}<tool_call>\n{''.join(calls)}{N}</tool_call>"


def said(thinking: str = "", answer: str = "", *calls: ToolCall, incomplete: bool = False) -> Parsed:
    return Parsed(thinking, answer, calls, incomplete)


HERMES_CALL = '<tool_call>\n{"name": "f", "arguments": {"text": "é <b>"}}\n</tool_call>'
CALLED = ToolCall(0, "f", '{"text": "é <b>"}')

# dialect, whether the prompt ended within thinking, the text, what it says
CASES: dict[str, tuple[Dialect, bool, str, Parsed]] = {
    "plain": (PLAIN, False, " <think>a</think> b ", said("", " <think>a</think> b ")),
    "no thinking": (M3, False, " Hello. ", said("", " Hello. ")),
    "thinking": (M3, False, "<mm:think>\na\n</mm:think>\n\nb", said("a", "b")),
    "white space first": (HERMES, False, "\n <think>a</think>b", said("a", "b")),
    "prefilled": (M3, True, "a</mm:think>b\n", said("a", "b\n")),
    "said not to think": (M3, False, "</mm:think>b", said("", "b")),
    "never ends": (M3, False, "<mm:think>a ", said("a ", "", incomplete=True)),
    "only half a marker": (M3, False, "<mm:thi", said("", "<mm:thi")),
    "half an end": (M3, True, "a</mm:", said("a</mm:", "", incomplete=True)),
    "quoted later": (HERMES, False, "Write <think>x</think>.", said("", "Write <think>x</think>.")),
    "quoted within": (M3, False, "<mm:think>a <mm:think> b</mm:think>c", said("a <mm:think> b", "c")),
    "leaked marker": (M3, False, f"a{N}b]<]minimax[>c", said("", "ab]<]minimax[>c")),
    "leaked in thinking": (M3, True, f"a{N}b</mm:think>{N}c", said("ab", "c")),
    "a call": (M3, False, "Look:\n" + m3_block(m3_call("~<text>é <b>~</text>")), said("", "Look:", CALLED)),
    "thinking and a call": (
        M3,
        True,
        "a</mm:think>\n" + m3_block(m3_call("~<text>é <b>~</text>")),
        said("a", "", CALLED),
    ),
    "no arguments": (M3, False, m3_block(m3_call("")), said("", "", ToolCall(0, "f", "{}"))),
    "two calls": (
        M3,
        False,
        m3_block(m3_call("~<n>1~</n>"), m3_call(" ~<x>y~</x> ", "g")) + "\nDone. ",
        said("", "Done. ", ToolCall(0, "f", '{"n": 1}'), ToolCall(1, "g", '{"x": "y"}')),
    ),
    "half a call": (
        M3,
        False,
        f'a\n{N}<tool_call>\n{N}<invoke name="f">{N}<text>b ',
        said("", 'a\n<tool_call>\n<invoke name="f"><text>b ', incomplete=True),
    ),
    "a call and a half": (
        M3,
        False,
        f'{N}<tool_call>\n{m3_call("")}{N}<invoke name="f">',
        said("", '<invoke name="f">', ToolCall(0, "f", "{}"), incomplete=True),
    ),
    "tags that do not match": (
        M3,
        False,
        m3_block(m3_call("~<text>a~</n>")) + "b",
        said("", '<tool_call>\n<invoke name="f"><text>a</n></invoke>\n</tool_call>b'),
    ),
    "text between calls": (
        M3,
        False,
        f"{N}<tool_call>\n wrong {m3_block(m3_call(''))}",
        said("", "<tool_call>\n wrong", ToolCall(0, "f", "{}")),
    ),
    "given twice": (
        M3,
        False,
        m3_block(m3_call("~<n>1~</n>~<n>2~</n>")),
        said("", '<tool_call>\n<invoke name="f"><n>1</n><n>2</n></invoke>\n</tool_call>'),
    ),
    "hermes call": (HERMES, False, f"<think>a</think>\nb\n{HERMES_CALL}\n", said("a", "b", CALLED)),
    "hermes half call": (HERMES, False, "b <tool_call>{", said("", "b <tool_call>{", incomplete=True)),
    "hermes no json": (HERMES, False, "<tool_call>x</tool_call>y", said("", "<tool_call>x</tool_call>y")),
    "hermes other json": (HERMES, False, "<tool_call>[1]</tool_call>", said("", "<tool_call>[1]</tool_call>")),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_an_answer_says(case: tuple[Dialect, bool, str, Parsed]) -> None:
    dialect, thinking, text, expected = case
    assert parse(dialect, text, thinking=thinking, tools=TOOLS) == expected
    assert pieces(dialect, list(text), thinking=thinking) == expected


def pieces(dialect: Dialect, texts: list[str], *, thinking: bool) -> Parsed:
    parser = AnswerParser(dialect, thinking=thinking, tools=TOOLS)
    parts: list[Part] = []
    for text in texts:
        parts += parser.push(text)
    parts += parser.finish()
    return collect(parts, incomplete=parser.incomplete)


FRAGMENTS = [
    *(
        "<mm:think>",
        "</mm:think>",
        "<think>",
        "</think>",
        N,
        N[:5],
        N[5:],
        "<tool_call>",
        "</tool_call>",
        "\n",
        " ",
        "é",
    ),
    *("a", "<", ">", "</", f"{N}<tool_call>", f'{N}<invoke name="f">', f"{N}<text>", f"{N}</text>", f"{N}</invoke>"),
    *(f"{N}</tool_call>", f"{N}<item>", f"{N}</item>", m3_block(m3_call("~<n>1~</n>")), HERMES_CALL, '{"name": "f"}'),
]


@given(
    st.sampled_from([M3, HERMES, PLAIN]),
    st.booleans(),
    st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join),
    st.data(),
)
def test_any_cut_gives_the_same_parse(dialect: Dialect, thinking: bool, text: str, data: st.DataObject) -> None:
    thinking = thinking and dialect.think is not None
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=20).map(sorted))
    cut = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
    whole = parse(dialect, text, thinking=thinking, tools=TOOLS)
    assert pieces(dialect, cut, thinking=thinking) == whole
    assert N not in whole.thinking + whole.answer or dialect is not M3


@given(st.text(), st.booleans())
def test_text_without_markers_is_the_answer(text: str, thinking: bool) -> None:
    assert parse(PLAIN, text, tools=TOOLS) == said("", text)
    assert parse(HERMES, f"{text}</think>", thinking=True).thinking == text.strip()


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.dictionaries(st.text(), st.recursive(LEAVES, lambda v: st.lists(v) | st.dictionaries(st.text(), v))))
def test_any_json_arguments_survive(arguments: dict[str, Any]) -> None:
    text = f"<tool_call>{json.dumps({'name': 'f', 'arguments': arguments})}</tool_call>"
    if "</tool_call>" not in text[: -len("</tool_call>")]:
        assert [json.loads(call.arguments) for call in parse(HERMES, text, tools=TOOLS).calls] == [arguments]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("~<text>1~</text>", {"text": "1"}),
        ("~<maybe>null~</maybe>", {"maybe": "null"}),
        ("~<n>1.5~</n>", {"n": 1.5}),
        ("~<n>many~</n>", {"n": "many"}),
        ("~<n>NaN~</n>", {"n": "NaN"}),
        ("~<list>~<item>1~</item>~</list>", {"list": [1]}),
        ("~<list>[1, 2]~</list>", {"list": [1, 2]}),
        ("~<list>~</list>", {"list": []}),
        ("~<odd>true~</odd>", {"odd": True}),
        ("~<other>a: b~</other>", {"other": "a: b"}),
        ("~<other>~<item>a~</item>~<item>~</item>~</other>", {"other": ["a", ""]}),
        ("~<other>~<item>a~</item>~<key>1~</key>~</other>", {"other": {"item": "a", "key": 1}}),
        ("~<invoke>a~</invoke>", {"invoke": "a"}),
    ],
)
def test_arguments_have_the_types_of_the_schema(written: str, value: dict[str, Any]) -> None:
    [call] = parse(M3, m3_block(m3_call(written)), tools=TOOLS).calls
    assert json.loads(call.arguments) == value


def test_without_tools_there_are_no_calls() -> None:
    assert parse(M3, m3_block(m3_call(""))) == said("", '<tool_call>\n<invoke name="f"></invoke>\n</tool_call>')
    assert parse(HERMES, HERMES_CALL, tools=[]) == said("", HERMES_CALL)


def test_deep_nesting_is_text() -> None:
    depth = 5000
    text = m3_block(m3_call("~<a>" * depth + "~</a>" * depth))
    assert parse(M3, text, tools=TOOLS) == said("", text.replace(N, ""))
    text = f'<tool_call>{{"name": "f", "arguments": {"[" * 100_000}</tool_call>'
    assert parse(HERMES, text, tools=TOOLS) == said("", text)


def test_parts_come_as_soon_as_they_are_certain() -> None:
    parser = AnswerParser(M3, tools=TOOLS)
    assert parser.push("<mm:th") == []
    assert parser.push("ink>\nLet") == [Thinking("Let")]
    assert parser.push(" me.\n</mm") == [Thinking(" me.")]
    assert parser.push(":think>\nYes ") == [Answer("Yes")]
    assert parser.push(f"and {N}<tool_c") == [Answer(" and")]
    assert parser.push("all>") == []
    assert parser.push(m3_call("~<n>1~</n>")) == [ToolCall(0, "f", '{"n": 1}')]
    assert parser.push(m3_call("")) == [ToolCall(1, "f", "{}")]
    assert parser.num_calls == 2
    assert parser.push(f"{N}</tool_call>\n") == []
    assert parser.finish() == []
    assert not parser.incomplete


def test_the_time_per_piece_does_not_grow() -> None:
    """A million characters within one argument; going over them again at every piece would take hours."""
    parser = AnswerParser(M3, tools=TOOLS)
    parser.push(f'{N}<tool_call>{N}<invoke name="f">{N}<text>')
    for _ in range(20_000):
        parser.push("0123456789" * 5)
    parser.push(f"{N}</text>")
    [call] = parser.push(f"{N}</invoke>")
    assert isinstance(call, ToolCall)
    assert len(call.arguments) > 1_000_000


def test_the_dialect_is_what_the_template_writes() -> None:
    assert dialect_of(None) == dialect_of("{{ messages }}") == PLAIN
    assert dialect_of(f"<mm:think></mm:think>{N}") == M3
    assert dialect_of('</think> <tool_call> {"name": .., "arguments": ..}') == HERMES
    assert dialect_of("</think>") == Dialect(think=("<think>", "</think>"))


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="thinking: this dialect has none"):
        AnswerParser(PLAIN, thinking=True)
    with pytest.raises(InputError, match="tools: each needs a function with a name"):
        AnswerParser(M3, tools=[{"type": "function"}])
