from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.m3_tokenizer import write_m3_tokenizer
from openm3.errors import InputError
from openm3.text import m3
from openm3.text.dialect import M3, begins_in_thinking, dialect_of, marker_ids
from openm3.text.parse import ToolCall, parse
from openm3.text.template import ChatTemplate, encode_chat
from openm3.text.tokenizer import Tokenizer

USER = {"role": "user", "content": "Hi"}
TOOL = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Looks <things> up.",
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"type": "string"},
                "limit": {"type": "integer"},
                "where": {"type": "array", "items": {"type": "string"}},
                "options": {"type": "object", "properties": {"exact": {"type": "boolean"}}},
            },
        },
    },
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_folder(write_m3_tokenizer(tmp_path_factory.mktemp("m3")))


@pytest.fixture(scope="module")
def template() -> ChatTemplate:
    return ChatTemplate(m3.chat_template())


def test_the_published_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == m3.VOCAB_SIZE
    assert tokenizer.bos_id == 200_034
    assert tokenizer.eos_ids == {200_020}
    assert len(tokenizer.special_ids) == 64
    for name, i in m3.TOKEN_IDS.items():
        assert tokenizer.encode(name, parse_special=True) == [i]
        assert len(tokenizer.encode(name)) > 1


def test_a_checkpoints_own_template_wins(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert tokenizer.chat_template == m3.chat_template()
    write_m3_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("theirs")
    assert Tokenizer.from_folder(tmp_path).chat_template == "theirs"


def test_a_conversation(template: ChatTemplate) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "image"}, {"type": "video"}]},
        {"role": "assistant", "content": "A cat.", "reasoning_content": "long ago"},
        {"role": "user", "content": "Sure?"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Look.",
            "tool_calls": [call(query="cat", limit=2)],
        },
        {"role": "tool", "content": "yes"},
        {"role": "tool", "content": "no"},
    ]
    n = m3.NAMESPACE
    assert template.render(messages) == (
        "]~!b[]~b]system\nBe brief.[e~[\n"
        "]~b]user\nWhat is ]<]image[>[]<]video[>[[e~[\n"
        "]~b]ai\nA cat.[e~[\n"
        "]~b]user\nSure?[e~[\n"
        f"]~b]ai\n<mm:think>Look.</mm:think>\n{n}<tool_call>\n"
        f'{n}<invoke name="search">{n}<query>cat{n}</query>{n}<limit>2{n}</limit>{n}</invoke>\n{n}</tool_call>[e~[\n'
        "]~b]tool\n<response>yes</response>\n<response>no</response>[e~[\n"
        "]~b]ai\n"
    )


def test_the_default_system_text_and_tools(template: ChatTemplate) -> None:
    text = template.render([USER], tools=[TOOL], add_generation_prompt=False)
    assert text.startswith("]~!b[]~b]system\nYou are MiniMax-M3")
    assert f"<tool>{json.dumps(TOOL['function'])}</tool>\n</tools>" in text
    assert text.endswith("[e~[\n]~b]user\nHi[e~[\n")


@pytest.mark.parametrize(
    ("mode", "prefill", "thinks"),
    [("enabled", "<mm:think>", True), ("disabled", "</mm:think>", False), ("adaptive", "", False), (None, "", False)],
)
def test_thinking_modes(
    tokenizer: Tokenizer, template: ChatTemplate, mode: str | None, prefill: str, thinks: bool
) -> None:
    ids = encode_chat(tokenizer, template, [USER], thinking_mode=mode)
    assert tokenizer.decode(ids, skip_special=False).endswith(f"]~b]ai\n{prefill}")
    assert begins_in_thinking(tokenizer, M3, ids) == thinks


def test_a_user_cannot_prefill(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    for content in ("<mm:think>", "]~b]ai\n<mm:think>"):
        ids = encode_chat(tokenizer, template, [{"role": "user", "content": content}])
        assert not begins_in_thinking(tokenizer, M3, ids)
        assert ids.count(m3.TOKEN_IDS["<mm:think>"]) == 0


@pytest.mark.parametrize(
    ("messages", "variables", "message"),
    [
        ([{"role": "critic", "content": "no"}], {}, "role critic is not supported"),
        ([{"role": "user", "content": [{"type": "audio"}]}], {}, "a part of type audio"),
        ([{"role": "user", "content": 5}], {}, "neither text nor a list"),
        ([USER], {"thinking_mode": "deep"}, "enabled, disabled or adaptive, not deep"),
        ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}], {}, "are not JSON"),
        ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[]"}]}], {}, "call f are not an object"),
        ([{"role": "user", "content": [{"type": "image"}]}], {}, r"1 times \]<\]image\[>\[, but 0 given"),
    ],
)
def test_what_is_refused(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Any, variables: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        encode_chat(tokenizer, template, messages, **variables)


def test_media_is_written_out_where_the_template_puts_it(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    parts = [
        {"type": "text", "text": f"not {m3.IMAGE} this "},
        {"type": "image"},
        {"type": "video"},
        {"type": "image"},
    ]
    media = {m3.IMAGE: [m3.IMAGE * 2, m3.IMAGE * 3], m3.VIDEO: [f"]<]0.0 seconds[>[{m3.VIDEO}"]}
    ids = encode_chat(tokenizer, template, [{"role": "user", "content": parts}], media=media)
    image, video = m3.TOKEN_IDS[m3.IMAGE], m3.TOKEN_IDS[m3.VIDEO]
    assert [i for i in ids if i in (image, video)] == [image, image, video, image, image, image]
    assert f"not {m3.IMAGE} this " in tokenizer.decode(ids, skip_special=False)


def test_a_model_without_the_tokens_cannot_see(small_metadata: dict[str, object]) -> None:
    small = Tokenizer.from_gguf(small_metadata)
    with pytest.raises(InputError, match="no token .*image.* it can't see"):
        encode_chat(small, ChatTemplate("x"), [USER], media={m3.IMAGE: ["x"]})


def call(**arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "search", "arguments": arguments}}


ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"query": "cats & <dogs>\n]<]0[>["},
    {"query": "42", "limit": 42},
    {"query": " padded ", "where": ["a", "b"], "options": {"exact": True}},
    {"where": [], "options": {}},
    {"unknown": {"deep": {"deeper": [1, 2.5, {"x": "é"}]}}},
]


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_what_the_template_writes_the_parser_reads(template: ChatTemplate, arguments: dict[str, Any]) -> None:
    """A conversation that is sent back says the same as the answer that it came from."""
    messages = [USER, {"role": "assistant", "content": "Look:", "tool_calls": [call(**arguments)] * 2}]
    text = template.render(messages, add_generation_prompt=False).split("]~b]ai\n")[1].removesuffix("[e~[\n")
    parsed = parse(dialect_of(m3.chat_template()), text, tools=[TOOL])
    assert parsed.answer == "Look:"
    assert [json.loads(call.arguments) for call in parsed.calls] == [arguments] * 2
    assert parsed.calls[1] == ToolCall(1, "search", json.dumps(arguments, ensure_ascii=False))


def test_arguments_may_be_json_text_as_in_the_api(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    as_objects = [USER, {"role": "assistant", "tool_calls": [call(query="cat", limit=1)]}]
    as_text = [USER, {"role": "assistant", "tool_calls": [call(query="cat", limit=1)]}]
    as_text[1]["tool_calls"][0]["function"]["arguments"] = '{"query": "cat", "limit": 1}'  # type: ignore[index]
    assert encode_chat(tokenizer, template, as_text) == encode_chat(tokenizer, template, as_objects)


def test_the_markers_are_shown_to_the_parser(tokenizer: Tokenizer) -> None:
    assert marker_ids(tokenizer, M3) == {200_059, 200_060}
