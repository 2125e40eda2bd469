"""Answers that follow a grammar: a JSON schema, a regular expression, or a grammar in Lark's notation.

llguidance says which tokens may come next: an Earley parser and a lexer of derivatives walk the tree of the vocabulary.
That takes about a tenth of a millisecond a token, and nothing is compiled ahead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from openm3.errors import InputError
from openm3.text.call_grammar import Tool, call_grammar
from openm3.text.dialect import Dialect
from openm3.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# Between two tokens of JSON; without a limit a model that likes white space would never come to an end.
_SPACE = r"[\x20\x0A\x0D\x09]{1,20}"
_ERROR_LENGTH = 300


@dataclass(frozen=True)
class Constraint:
    """What an answer has to look like.

    Attributes:
        kind: the notation of `source`: "json_schema" is a schema as JSON, "regex" has to match the whole answer,
            "grammar" is Lark's notation as llguidance has it, with a rule `start`, "tool_calls" what `tool_calls` says.
    """

    kind: Literal["json_schema", "regex", "grammar", "tool_calls"]
    source: str

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any]) -> Constraint:
        """JSON that is valid by a schema."""
        return cls("json_schema", json.dumps(schema))

    @classmethod
    def json_object(cls) -> Constraint:
        """Any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def tool_calls(
        cls,
        tools: Sequence[Mapping[str, Any]],
        *,
        required: bool,
        many: bool = True,
        text: Mapping[str, Any] | None = None,
    ) -> Constraint:
        """Calls of tools by their schemas, in the notation of the model's dialect.

        Args:
            tools: those that may be called, as in an API request.
            required, many, text: as of `call_grammar`.
        """
        called = [
            {"name": tool["function"]["name"], "parameters": tool["function"].get("parameters") or {}} for tool in tools
        ]
        return cls("tool_calls", json.dumps({"tools": called, "required": required, "many": many, "text": text}))


class Grammars:
    """Makes matchers for one model's tokenizer.

    Args:
        tokenizer: the model's.
        vocab_size: of the model, which may have rows that are no tokens.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._for_grammars: LLTokenizer | None = None  # built once it is needed: it takes a tenth of a second

    def matcher(
        self,
        constraint: Constraint | None,
        dialect: Dialect,
        *,
        thinking: bool,
        may_think: bool,
        max_thinking: int | None = None,
    ) -> Matcher:
        """A matcher for one answer.

        Args:
            constraint: what the answer has to look like; None: it is free.
            dialect: where it has thinking, that comes before and is free.
            thinking: the answer begins in thinking.
            may_think: the answer may begin with the marker of thinking.
            max_thinking: tokens of thinking, after which it ends.

        Raises:
            InputError: the constraint can't be compiled, or the end of thinking is no token of its own.
        """
        begin, end = (self._tokenizer.token_id(marker) for marker in dialect.think or ("", ""))
        if end is None and (thinking or max_thinking is not None):
            field = "constraint" if max_thinking is None else "max_thinking"
            raise InputError(field, "this model ends its thinking with more than one token; let it not think")
        return Matcher(
            None if constraint is None else self._compiled(constraint, dialect),
            self._tokenizer.eos_ids,
            self._vocab_size,
            end_thinking=end,
            begin_thinking=begin if may_think and end is not None else None,
            thinks=thinking,
            max_thinking=max_thinking,
        )

    def _compiled(self, constraint: Constraint, dialect: Dialect) -> LLMatcher:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer_for_grammars(), self._grammar(constraint, dialect), log_level=0)
        if matcher.is_error():
            raise InputError("constraint", f"{constraint.kind}: {_short(matcher.get_error())}")
        return matcher

    def _grammar(self, constraint: Constraint, dialect: Dialect) -> str:
        """A constraint in the library's own notation, which is checked when a matcher is made of it."""
        from llguidance import LLMatcher

        match constraint.kind:
            case "regex":
                return LLMatcher.grammar_from_regex(constraint.source)
            case "grammar":
                return LLMatcher.grammar_from_lark(constraint.source)
            case "tool_calls":
                asked = json.loads(constraint.source)
                tools = [Tool(**each) for each in asked.pop("tools")]
                return LLMatcher.grammar_from_lark(call_grammar(dialect, self._tokenizer.token_id, tools, **asked))
        try:
            schema = json.loads(constraint.source)
        except ValueError as error:
            raise InputError("constraint", f"json_schema: not JSON: {error}") from error
        if not isinstance(schema, dict):
            raise InputError("constraint", "json_schema: a schema is a JSON object")
        return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": _SPACE})

    def _tokenizer_for_grammars(self) -> LLTokenizer:
        if self._for_grammars is None:
            from llguidance import LLTokenizer, TokenizerWrapper

            vocabulary = TokenizerWrapper(_Vocabulary(self._tokenizer))
            ends = sorted(self._tokenizer.eos_ids)
            self._for_grammars = LLTokenizer(vocabulary, n_vocab=self._tokenizer.vocab_size, eos_token=ends)
        return self._for_grammars


class Matcher:
    """Follows one answer, token by token.

    Use `Grammars.matcher`.

    Attributes:
        is_complete: nothing can follow but the end of the answer.
    """

    def __init__(
        self,
        matcher: LLMatcher | None,
        eos_ids: frozenset[int],
        vocab_size: int,
        *,
        end_thinking: int | None,
        begin_thinking: int | None,
        thinks: bool,
        max_thinking: int | None,
    ) -> None:
        self._left = math.inf if max_thinking is None else max_thinking  # tokens of thinking
        self._matcher, self._eos_ids, self._vocab_size = matcher, eos_ids, vocab_size
        self._end_thinking, self._begin_thinking, self._thinks = end_thinking, begin_thinking, thinks
        self._allowed: NDArray[np.bool_] | None = None  # of the next token, once it is known
        self.is_complete = False

    def allowed(self) -> NDArray[np.bool_]:
        """`[vocab_size]`: the tokens that may come next; none where the grammar asks for what no token says."""
        if self._allowed is None:
            self._allowed = np.zeros(self._vocab_size, dtype=np.bool_)
            if self._thinks and self._left <= 0:
                self._allowed[self._end_thinking] = True
            elif self._thinks:
                self._allowed[:] = True
                self._allowed[list(self._eos_ids)] = False  # an answer has to follow
            elif self._matcher is None:
                self._allowed[:] = True
            elif not self._matcher.is_error():
                bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
                mask = np.unpackbits(bits, count=min(self._vocab_size, 8 * len(bits)), bitorder="little")
                self._allowed[: len(mask)] = mask
                if self._begin_thinking is not None:
                    self._allowed[self._begin_thinking] = True
        return self._allowed

    def take(self, token_id: int) -> None:
        """The answer goes on with this token, one of those that are allowed."""
        self._allowed = None
        if self._thinks:
            self._thinks = token_id != self._end_thinking
            self._left -= 1
        elif token_id == self._begin_thinking:
            self._thinks = True
        elif self._matcher is not None and token_id not in self._eos_ids:
            self._matcher.consume_token(token_id)
            self.is_complete = self._matcher.is_stopped() and not self._matcher.is_error()
        self._begin_thinking = None  # only at the beginning

    def forced(self) -> list[int]:
        """Tokens that say what has to come next, where only one thing can; others may say it too."""
        if self._thinks or self._begin_thinking is not None or self._matcher is None:
            return []
        return self._matcher.compute_ff_tokens()

    def count_allowed(self, token_ids: Sequence[int]) -> int:
        """How many of these tokens could come next, one after the other."""
        if self._thinks or self._begin_thinking is not None or self._matcher is None:
            return len(token_ids)
        return self._matcher.validate_tokens(list(token_ids))


class _Vocabulary:
    """The tokenizer as llguidance wants it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = min(tokenizer.eos_ids)
        self.bos_token_id = tokenizer.bos_id
        self.tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(tokenizer.special_ids)

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


def _short(message: str) -> str:
    """An error of the library in a line."""
    line = " ".join(message.split())
    return line if len(line) <= _ERROR_LENGTH else f"{line[:_ERROR_LENGTH]}..."
