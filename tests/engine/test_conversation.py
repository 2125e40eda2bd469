from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.sayings import say
from helpers.seeing_m3 import write_seeing_m3
from openm3.engine.llm import LLM
from openm3.engine.output import FinishReason
from openm3.engine.params import SamplingParams
from openm3.errors import InputError
from openm3.text.dialect import M3, PLAIN
from openm3.text.m3 import NAMESPACE as NS
from openm3.text.parse import ToolCall

TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "look", "description": "Looks."}}]
HI = [{"role": "user", "content": "hi"}]
SHORT = SamplingParams(max_tokens=200)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return LLM(write_seeing_m3(tmp_path_factory.mktemp("models") / "m3"))


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> LLM:
    return LLM(tiny_model)


def test_a_prompt_knows_how_its_answer_is_read(seeing: LLM, plain: LLM) -> None:
    prompt = seeing.encode_chat(HI, tools=TOOLS)
    assert (prompt.dialect, prompt.thinking, prompt.tools) == (M3, False, tuple(TOOLS))
    assert seeing.encode_chat(HI, thinking_mode="enabled").thinking
    assert not seeing.encode_chat(HI, thinking_mode="disabled").thinking
    assert plain.encode_chat(HI).dialect == PLAIN


def test_a_prompt_knows_its_system_prompt(plain: LLM) -> None:
    assert plain.encode_chat(HI).head == 0
    prompt = plain.encode_chat([{"role": "system", "content": "You are brief."}, *HI])
    head = plain.tokenizer.decode(prompt.ids[: prompt.head], skip_special=False)
    assert head == "<|im_start|>system\nYou are brief.<|im_end|>\n<|im_start|>user\n"


def test_an_answer_comes_in_parts(seeing: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    call = f'{NS}<tool_call>{NS}<invoke name="look">{NS}<at>sea{NS}</at>{NS}</invoke>{NS}</tool_call>'
    say(f"<mm:think>Hm.</mm:think>So. {call}", monkeypatch)
    answer = seeing.chat(HI, SHORT, tools=TOOLS)
    assert (answer.thinking, answer.text) == ("Hm.", "So.")
    assert answer.tool_calls == (ToolCall(0, "look", '{"at": "sea"}'),)
    assert answer.finish_reason is FinishReason.STOP
    [plain] = seeing.generate(["hi"], SHORT)
    assert plain.text.startswith("Hm.So. ]<]minimax[>[<tool_call>"), "no conversation: nothing is read into the text"
    assert (plain.thinking, plain.tool_calls) == ("", ())


def test_parts_of_text_are_lines_where_templates_know_no_parts(plain: LLM) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert (
        plain.encode_chat([{"role": "user", "content": parts}]).ids
        == plain.encode_chat([{"role": "user", "content": "a\nb"}]).ids
    )


@pytest.mark.parametrize(
    ("messages", "options", "field"),
    [
        (HI, {"tools": TOOLS}, "tools"),
        (HI, {"thinking_mode": "enabled"}, "thinking_mode"),
        ([*HI, {"role": "tool", "content": "x"}], {}, "messages[1].role"),
        ([{"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}], {}, "messages[0].tool_calls"),
        ([{"role": "assistant", "content": "", "reasoning_content": "x"}], {}, "messages[0].reasoning_content"),
        ([{"role": "user", "content": ["x"]}], {}, "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], {}, "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "video", "video": b""}]}], {}, "messages[0].content[0]"),
        ([], {}, "messages"),
    ],
)
def test_what_a_plain_model_refuses(plain: LLM, messages: Any, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as error:
        plain.chat(messages, **options)
    assert error.value.field == field


def test_a_mode_that_there_is_not(seeing: LLM) -> None:
    with pytest.raises(InputError, match="thinking_mode: must be one of enabled, disabled, adaptive, got 'much'"):
        seeing.chat(HI, thinking_mode="much")
