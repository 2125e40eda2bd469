"""Whatever a model likes to say, what the grammar lets through is calls of the tools, valid by their schemas."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest
from tokenizers import AddedToken

from openm3.errors import InputError
from openm3.text.byte_level import SMALLEST_VOCAB, byte_tokenizer
from openm3.text.dialect import HERMES, M3, PLAIN, Dialect
from openm3.text.grammar import Constraint, Grammars, Matcher
from openm3.text.m3 import END, NAMESPACE, TEXT_BEGIN
from openm3.text.parse import Parsed, parse
from openm3.text.tokenizer import Tokenizer

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "kind": {"enum": ["new", "old"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 1, "maxItems": 2},
        "home": {"$ref": "#/$defs/Place"},
        "limit": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "null"}]},
    },
    "required": ["name", "kind", "home"],
    "additionalProperties": False,
    "$defs": {
        "Place": {
            "type": "object",
            "properties": {"code": {"type": "string", "maxLength": 2}, "far": {"type": "boolean"}},
            "required": ["code"],
            "additionalProperties": False,
        }
    },
}
ADD = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["a"]}


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("add_person", PERSON), tool("add", {**ADD, "additionalProperties": False})]
SCHEMAS = {each["function"]["name"]: each["function"]["parameters"] for each in TOOLS}


def tokenizer(*markers: str) -> Tokenizer:
    """Bytes and M3's special tokens, and these markers as tokens of their own."""
    backend = byte_tokenizer(SMALLEST_VOCAB)
    backend.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in markers])
    ids = [backend.token_to_id(name) for name in (TEXT_BEGIN, END)]
    return Tokenizer(backend, bos_id=ids[0], eos_ids=[ids[1]], adds_bos=False, chat_template=None)


WAYS = [
    pytest.param(M3, (), id="m3"),
    pytest.param(M3, (NAMESPACE,), id="m3-token"),
    pytest.param(HERMES, (), id="json"),
    pytest.param(HERMES, ("<tool_call>", "</tool_call>"), id="json-tokens"),
]


def matcher_of(tokens: Tokenizer, dialect: Dialect, constraint: Constraint) -> Matcher:
    return Grammars(tokens, tokens.vocab_size).matcher(constraint, dialect, thinking=False, may_think=False)


def walk(tokens: Tokenizer, dialect: Dialect, constraint: Constraint, seed: int) -> Parsed:
    """An answer of a model that likes letters and digits, and everything else a little."""
    rng, matcher, ids = random.Random(seed), matcher_of(tokens, dialect, constraint), list[int]()
    while not matcher.is_complete:
        allowed = matcher.allowed().nonzero()[0].tolist()
        assert allowed, tokens.decode(ids, skip_special=False)
        ends = [i for i in allowed if i in tokens.eos_ids]
        if ends and rng.random() < 0.1:
            break
        liked = [i for i in allowed if tokens.token_bytes(i).isalnum()] or [i for i in allowed if i not in ends]
        if not liked:
            break
        ids.append(rng.choice(liked if rng.random() < 0.6 else allowed))
        if ids[-1] in tokens.eos_ids:
            ids.pop()
            break
        matcher.take(ids[-1])
        assert len(ids) < 5000
    return parse(dialect, tokens.decode(ids, skip_special=False), tools=TOOLS)


@pytest.mark.parametrize(("dialect", "markers"), WAYS)
@pytest.mark.parametrize("many", [False, True])
def test_required_calls_are_valid_whatever_the_model_likes(
    dialect: Dialect, markers: tuple[str, ...], many: bool
) -> None:
    tokens = tokenizer(*markers)
    called = set()
    for seed in range(12):
        parsed = walk(tokens, dialect, Constraint.tool_calls(TOOLS, required=True, many=many), seed)
        assert parsed.calls and not parsed.answer and not parsed.incomplete
        assert many or len(parsed.calls) == 1
        for call in parsed.calls:
            jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])
            called.add(call.name)
    assert called == set(SCHEMAS)


@pytest.mark.parametrize(("dialect", "markers"), WAYS)
def test_a_named_tool_is_the_one(dialect: Dialect, markers: tuple[str, ...]) -> None:
    parsed = walk(tokenizer(*markers), dialect, Constraint.tool_calls(TOOLS[1:], required=True, many=False), 1)
    assert [call.name for call in parsed.calls] == ["add"]


def fits(tokens: Tokenizer, matcher: Matcher, text: str) -> bool:
    """Whether an answer may be this text, or go on behind it."""
    for i in tokens.encode(text, parse_special=True):
        if not matcher.allowed()[i]:
            return False
        matcher.take(i)
    return True


CALLS = {
    M3: f'{NAMESPACE}<tool_call>\n{NAMESPACE}<invoke name="add">{NAMESPACE}<a>7{NAMESPACE}</a>{NAMESPACE}</invoke>\n'
    f"{NAMESPACE}</tool_call>",
    HERMES: '<tool_call>\n{"name": "add", "arguments": {"a": 7}}\n</tool_call>',
}


@pytest.mark.parametrize(("dialect", "markers"), WAYS)
def test_calls_that_are_free_to_come_are_valid_when_they_do(dialect: Dialect, markers: tuple[str, ...]) -> None:
    tokens, call = tokenizer(*markers), CALLS[dialect]
    free = Constraint.tool_calls(TOOLS, required=False)

    def allows(text: str, constraint: Constraint = free) -> bool:
        return fits(tokens, matcher_of(tokens, dialect, constraint), text)

    assert allows("No call, < and [ and ] are text.") and allows(call) and allows(f"Let me see.\n{call}")
    assert not allows(call.replace("7", "x")) and not allows(f"See.{call.replace('add', 'sub')}")
    assert not allows("text", Constraint.tool_calls(TOOLS, required=True))
    either = Constraint.tool_calls(TOOLS, required=False, text={"type": "object", "properties": {"x": {"const": 1}}})
    assert allows(call, either) and allows('{"x": 1}', either) and not allows("text", either)
    twice = (
        call + call if dialect == HERMES else call.replace(f"{NAMESPACE}</tool_call>", "") + call[len(NAMESPACE) + 12 :]
    )
    assert allows(twice) and not allows(twice, Constraint.tool_calls(TOOLS, required=False, many=False))


def test_what_cannot_be_kept_to_is_refused() -> None:
    def refuse(dialect: Dialect, parameters: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            matcher_of(tokenizer(), dialect, Constraint.tool_calls([tool("f", parameters)], required=True))

    refuse(PLAIN, {}, "knows no tool calls")
    refuse(M3, {"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}}, "pattern")
    refuse(M3, {"type": "object", "properties": {"a>": {}}}, "can't have the name 'a>'")
    refuse(HERMES, {"type": "strin"}, "tool_calls: ")
