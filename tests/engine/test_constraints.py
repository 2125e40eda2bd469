"""Answers with a constraint: what ends by itself follows it, in any company, with and without drafts."""

from __future__ import annotations

import json
import re
from itertools import count
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.tiny import write_tiny_model
from openm3.config import EngineConfig, SparseConfig
from openm3.engine.engine import Engine
from openm3.engine.llm import LLM
from openm3.engine.output import FinishReason
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt
from openm3.errors import InputError
from openm3.text.dialect import Dialect
from openm3.text.grammar import Constraint

LARK = 'start: "(" start ")" | /[0-9]+/'
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def load(folder: Path, speculation: str = "auto") -> LLM:
    sparse = SparseConfig(index_block_size=16, index_topk_blocks=3)
    sizes: dict[str, Any] = {"prefill_chunk": 64, "max_batch_tokens": 256, "max_running": 16}
    llm = LLM(folder, EngineConfig(sparse=sparse, speculation=speculation, **sizes))
    llm.engine = Engine(llm.engine.runner, llm.tokenizer, llm.config, count().__next__)  # drafts cost nothing
    return llm


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> LLM:
    return load(tiny_model)


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> LLM:
    return load(tiny_model, "off")


def params(constraint: Constraint, **changes: Any) -> SamplingParams:
    return SamplingParams(**{"constraint": constraint, "max_tokens": 120, "temperature": 1.0, "seed": 3, **changes})


scalars = st.sampled_from(
    [
        {"type": "integer", "minimum": -5, "maximum": 99},
        {"type": "boolean"},
        {"type": "null"},
        {"type": "string", "maxLength": 5},
        {"type": "string", "pattern": "^[ab]{1,3}$"},
        {"type": "number", "minimum": 0, "maximum": 1},
        {"enum": ["red", "green", 7]},
        {"const": "é\n"},
    ]
)
schemas = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.builds(lambda items, most: {"type": "array", "items": items, "maxItems": most}, inner, st.integers(0, 3)),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda properties, extra: (
                {
                    "type": "object",
                    "properties": properties,
                    "required": sorted(properties)[:2],
                    "additionalProperties": False,
                }
                | extra
            ),
            st.dictionaries(st.sampled_from(["a", "b", "long name", "é"]), inner, max_size=3),
            st.sampled_from([{}, {"description": "what it is"}]),
        ),
    ),
    max_leaves=5,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schema=schemas, seed=st.integers(0, 9), temperature=st.sampled_from([0.0, 1.0]))
def test_what_finishes_is_valid_by_its_schema(llm: LLM, schema: Any, seed: int, temperature: float) -> None:
    [answer] = llm.generate([[1, 2, 3]], params(Constraint.json_schema(schema), seed=seed, temperature=temperature))
    if answer.finish_reason is FinishReason.STOP:
        jsonschema.validate(json.loads(answer.text), schema)
    else:
        assert answer.finish_reason is FinishReason.LENGTH
        assert len(answer.token_ids) == 120


def test_each_of_a_crowd_follows_its_own(llm: LLM, plain: LLM) -> None:
    """Different constraints, none, and penalties beside each other; drafts and a known prefix change nothing."""
    asked = [
        params(Constraint.json_schema(PERSON), temperature=0.0),
        params(Constraint.json_schema(PERSON), frequency_penalty=0.5, presence_penalty=0.5),
        params(Constraint("regex", "(yes|no){2,9}!"), repetition_penalty=1.3),
        params(Constraint("grammar", LARK), top_k=5, logprobs=2),
        params(Constraint.json_object()),
        SamplingParams(max_tokens=30, ignore_eos=True),
    ]
    alone = [plain.generate([[5, 6, 7] * 9], each)[0] for each in asked]
    for _ in range(2):
        requests = [llm.engine.add([5, 6, 7] * 9, each) for each in asked]
        while llm.engine.step():
            llm.engine.scheduler.check()
        assert [tuple(each.output_ids) for each in requests] == [each.token_ids for each in alone]
    if llm.engine.scheduler.drafts:
        assert sum(each.num_accepted for each in requests) > 0
    texts = [each.text for each in alone]
    for text, answer in zip(texts[:2], alone[:2], strict=True):
        assert answer.finish_reason is FinishReason.STOP
        jsonschema.validate(json.loads(text), PERSON)
    assert re.fullmatch("(yes|no){2,9}!", texts[2])
    assert alone[3].finish_reason is FinishReason.LENGTH or re.fullmatch(r"\(*[0-9]+\)*", texts[3])


def test_too_few_tokens_are_finish_reason_length(llm: LLM) -> None:
    constraint = Constraint("regex", "abcdef")
    for max_tokens in range(1, 8):
        [answer] = llm.generate([[1]], params(constraint, max_tokens=max_tokens))
        assert answer.text == "abcdef"[:max_tokens]
        assert answer.finish_reason == ("stop" if max_tokens >= 6 else "length")


def test_what_could_go_on_ends_with_an_end_token(llm: LLM) -> None:
    [answer] = llm.generate([[1]], params(Constraint("regex", "a{1,40}"), max_tokens=100))
    assert answer.finish_reason is FinishReason.STOP
    assert re.fullmatch("a{1,40}", answer.text)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (Constraint.json_schema({"type": "strin"}), "json_schema: Invalid type: strin"),
        (Constraint.json_schema({"unevaluatedItems": False}), "json_schema: Unimplemented keys"),
        (Constraint("json_schema", "[1]"), "json_schema: a schema is a JSON object"),
        (Constraint("json_schema", "{"), "json_schema: not JSON: "),
        (Constraint("regex", "(a"), "regex: .*unclosed group"),
        (Constraint("grammar", "start: foo"), "grammar: .*unknown name"),
    ],
)
def test_what_cannot_be_compiled_is_refused(llm: LLM, constraint: Constraint, message: str) -> None:
    with pytest.raises(InputError, match=f"constraint: {message}"):
        llm.generate([[1]], params(constraint))
    assert not llm.engine.scheduler.waiting


@pytest.mark.parametrize("ends", [{"stop": ("a",)}, {"stop_token_ids": frozenset({3})}, {"ignore_eos": True}], ids=str)
def test_nothing_else_ends_it(ends: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(ends))}: an answer with a constraint ends when it is whole"):
        params(Constraint.json_object(), **ends)


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    """A tiny model with markers of thinking that are tokens."""
    folder = write_tiny_model(tmp_path_factory.mktemp("models") / "thinks", vocab_size=260)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for token_id, text in ((258, "<think>"), (259, "</think>")):
        tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": token_id, "content": text})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return load(folder)


@pytest.mark.parametrize("seed", range(3))
def test_thinking_is_free_and_the_answer_follows(thinker: LLM, seed: int) -> None:
    dialect = Dialect(think=("<think>", "</think>"))
    prompt = Prompt([258], dialect=dialect, thinking=True)
    asked = params(Constraint("regex", "yes|no"), max_tokens=400, temperature=3.0, seed=seed)
    [answer] = thinker.generate([prompt], asked)
    if answer.finish_reason is FinishReason.STOP:
        assert answer.text in ("yes", "no")
        assert 259 in answer.token_ids
    assert not set(answer.token_ids) & thinker.tokenizer.eos_ids


def test_where_thinking_is_over_it_cannot_begin(thinker: LLM) -> None:
    dialect = Dialect(think=("<think>", "</think>"))
    for seed in range(5):
        asked = params(Constraint("regex", "yes|no"), temperature=5.0, seed=seed)
        [over] = thinker.generate([Prompt([259], dialect=dialect)], asked)
        assert (over.text, over.thinking) in (("yes", ""), ("no", ""))
    opened = [
        thinker.generate(
            [Prompt([65], dialect=dialect)], params(Constraint("regex", "yes|no"), temperature=5.0, seed=s)
        )
        for s in range(12)
    ]
    assert {answer.token_ids[0] == 258 for [answer] in opened} == {True, False}, "an answer may begin with thinking"


def test_an_end_of_thinking_that_is_no_token_is_refused(llm: LLM) -> None:
    prompt = Prompt([1], dialect=Dialect(think=("<t>", "</t>")), thinking=True)
    with pytest.raises(InputError, match="constraint: this model ends its thinking with more than one token"):
        llm.generate([prompt], params(Constraint.json_object()))


def test_tools_are_refused_beside_it(llm: LLM) -> None:
    with pytest.raises(InputError, match="constraint: an answer with a constraint can't call tools"):
        llm.generate([Prompt([1], tools=({"type": "function"},))], params(Constraint.json_object()))
