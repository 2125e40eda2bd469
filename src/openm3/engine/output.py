"""What the engine says while it answers: progress through the prompt, then pieces of the answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from openm3.context.evidence import Evidence
from openm3.context.sources import SourceSpan
from openm3.text.parse import ToolCall


class FinishReason(StrEnum):
    """Why an answer ended. Every accepted request ends with one of them."""

    STOP = "stop"  # the model's end token, or a stop string
    LENGTH = "length"  # max_tokens, or the model's window; a constraint that no token of the vocabulary can fulfil
    CANCELLED = "cancelled"  # the caller went away


@dataclass(frozen=True)
class TokenLogprob:
    """A token and how likely the model held it.

    Attributes:
        token_id: its id; `token` is its bytes, which need not be whole characters.
        logprob: natural logarithm of its probability, before penalties and temperature.
        top: the most likely tokens at this place, likeliest first.
    """

    token_id: int
    token: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Progress:
    """Tokens of a prompt that have been read."""

    request_id: str
    num_read: int
    num_prompt: int


@dataclass(frozen=True)
class Dropped:
    """Tokens `start` to `stop - 1` of prompt and answer, which a compaction has dropped.

    `sources` are their files and lines; empty for tokens of the answer, and where nobody has said.
    """

    start: int
    stop: int
    sources: tuple[SourceSpan, ...] = ()


@dataclass(frozen=True)
class Compacted:
    """The window was full, and its least important blocks were dropped; `num_held` tokens are left in it."""

    request_id: str
    dropped: tuple[Dropped, ...]
    num_held: int


@dataclass(frozen=True)
class Delta:
    """A generated token and the text that became certain with it.

    Attributes:
        text: new text; empty while a character or a possible stop string is incomplete.
        token_id: None only in the last delta of a cancelled request, and of a pooled one.
        finish_reason: set in a request's last delta and only there.
        logprob: set when the request asked for log probabilities.
        evidence: in the last delta of a request that asked for it.
        state: fp32 [C], in the one delta of a pooled request: the mean of its prompt's states behind the last norm.
        stop: in the last delta, the stop string that ended the answer.
        stats: in the last delta, unless the request was cancelled.
    """

    request_id: str
    text: str
    token_id: int | None = None
    finish_reason: FinishReason | None = None
    logprob: TokenLogprob | None = None
    evidence: Evidence | None = None
    state: NDArray[np.float32] | None = None
    stop: str | None = None
    stats: Stats | None = None


@dataclass(frozen=True)
class Stats:
    """What one finished request cost.

    Attributes:
        num_prompt, num_generated: tokens.
        num_cached: of the prompt, tokens that an earlier request had read.
        queue_s, read_s, decode_s: seconds waited, until the first token since it started, and after it.
        blocks_read, blocks_visible: blocks of the context that its queries attended to, of those that
            causality let them see, summed over query tokens (per group and layer the same).
        num_preempted: how often its pages were taken and computed again.
        topk: blocks that the tokens of its answer read, where answers have a number of their own.
        num_dropped: tokens that compactions have dropped of prompt and answer.
        num_drafted, num_accepted: tokens that were guessed ahead, and those of them that were right.
    """

    num_prompt: int
    num_generated: int
    queue_s: float
    read_s: float
    decode_s: float
    blocks_read: int
    blocks_visible: int
    num_preempted: int = 0
    num_cached: int = 0
    topk: int | None = None
    num_dropped: int = 0
    num_drafted: int = 0
    num_accepted: int = 0


@dataclass(frozen=True)
class Completion:
    """A whole answer.

    Attributes:
        text: the answer to a plain prompt as it is; of a conversation without thinking, tool calls and markers.
        thinking: what the model thought before it answered a conversation.
        tool_calls: the tools that it calls.
        dropped: what compactions have dropped, where the window was compacted.
        evidence: which parts of the prompt its sentences were read from, where that was asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stats: Stats
    logprobs: tuple[TokenLogprob, ...] = ()
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    evidence: Evidence | None = None


Event = Progress | Compacted | Delta
