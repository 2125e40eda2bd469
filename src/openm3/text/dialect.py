"""How a family of models marks thinking and tool calls in its answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from openm3.text import m3
from openm3.text.tokenizer import Tokenizer

ToolSyntax = Literal["m3", "json"]

# A prefill is at most a marker and a line break, however the vocabulary cuts them.
_PREFILL_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The markers of one family.

    Args:
        think: what begins and what ends thinking; None where the family doesn't think aloud.
        tools: how a tool call is written: "m3" is nested tags behind M3's namespace marker, "json" a JSON object
            between `<tool_call>` tags (Hermes, Qwen); None where the family calls none.
    """

    think: tuple[str, str] | None = None
    tools: ToolSyntax | None = None

    @property
    def markers(self) -> tuple[str, ...]:
        """Every text that means something; control tokens of these names have to be shown to the parser."""
        calls = {"m3": (m3.NAMESPACE,), "json": ("<tool_call>", "</tool_call>"), None: ()}[self.tools]
        return (*(self.think or ()), *calls)


M3 = Dialect(think=(m3.THINK_BEGIN, m3.THINK_END), tools="m3")
HERMES = Dialect(think=("<think>", "</think>"), tools="json")
PLAIN = Dialect()


def dialect_of(chat_template: str | None) -> Dialect:
    """The dialect that a chat template teaches its model: the markers which it writes itself."""
    template = chat_template or ""
    thinks = [pair for pair in (M3.think, HERMES.think) if pair and pair[1] in template]
    if m3.NAMESPACE in template:
        tools: ToolSyntax | None = "m3"
    else:
        tools = "json" if "<tool_call>" in template and '"arguments"' in template else None
    return Dialect(think=thinks[0] if thinks else None, tools=tools)


def marker_ids(tokenizer: Tokenizer, dialect: Dialect) -> frozenset[int]:
    """The control tokens that are markers of the dialect: a `Detokenizer` has to keep their text."""
    return frozenset(i for i in tokenizer.special_ids if tokenizer.token_bytes(i).decode() in dialect.markers)


def begins_in_thinking(tokenizer: Tokenizer, dialect: Dialect, prompt_ids: Sequence[int]) -> bool:
    """Whether a prompt ends within thinking, as a template's prefill leaves it; the answer then goes on there."""
    return dialect.think is not None and _tail(tokenizer, prompt_ids[-_PREFILL_TOKENS:]).endswith(dialect.think[0])


def may_begin_to_think(tokenizer: Tokenizer, dialect: Dialect, prompt_ids: Sequence[int]) -> bool:
    """Whether an answer may begin with thinking: the prompt neither ends within it nor says that it is over."""
    return dialect.think is not None and not _tail(tokenizer, prompt_ids[-_PREFILL_TOKENS:]).endswith(dialect.think)


def _tail(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    return tokenizer.decode(ids, skip_special=False).rstrip()
