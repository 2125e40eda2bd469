"""A request on its way through the engine. No torch here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openm3.context.evidence import Observed
from openm3.context.importance import Importance, Masses
from openm3.engine.fairness import ALONE, Share
from openm3.engine.holes import Holes
from openm3.engine.output import Dropped, FinishReason, Stats
from openm3.engine.params import SamplingParams

if TYPE_CHECKING:
    from torch import Tensor

    from openm3.context.sources import SourceMap
    from openm3.engine.compaction import Compaction
    from openm3.engine.draft import Drafter
    from openm3.model.vision_patches import Patches
    from openm3.text.grammar import Matcher


class State(Enum):
    """Where a request is."""

    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


@dataclass(eq=False)
class Request:
    """One prompt and its answer so far.

    Positions are those of the sequence that is left after compactions; without any, all of prompt and answer.

    Attributes:
        prompt_ids: the prompt's tokens.
        params: how to sample; `seed` is set.
        max_tokens: the most tokens to generate, from the params and the window.
        media: images and videos that are still to be seen; empty from its first step on.
        places: where in `prompt_ids` their embeddings belong; ascending.
        share: whose it is.
        sources: what the prompt's tokens come from.
        head, tail: tokens of the prompt's beginning and end that a compaction keeps.
        compaction: what happens when it has filled its window; None: it is known to fit.
        holes: what was dropped of prompt and answer.
        altered: whether its pages hold what was moved by a compaction, so that they are like no other prompt's.
        seen_NC: those embeddings (fp32, N places), from its first step to its end, whatever happens to its pages.
        output_ids: generated tokens.
        num_computed: tokens whose keys and values are in the cache.
        num_cached: tokens of the prompt whose keys and values were there already.
        pages: the pages that hold them, in order.
        chain: digests of the pages that are full and known to the prefix cache.
        matcher: says what may come next, where the answer has a constraint.
        drafter: drafts its next tokens, once it answers; None where nothing is drafted.
        num_drafted, num_accepted: draft tokens that were computed, and those that were right.
        salt: what the tokens don't say, see `PrefixIndex.match`.
        blocks_read, blocks_visible: see `Stats`.
        topk: blocks that the tokens of its answer read, where it has a number of its own.
        observed: what the tokens of the answer read, where evidence is asked for.
        importance: of its blocks, as given, where compactions ask for it.
        pooled: the sum of the states of its prompt so far, where they are asked for.
    """

    request_id: str
    prompt_ids: Sequence[int]
    params: SamplingParams
    max_tokens: int
    media: tuple[Patches, ...] = ()
    places: Sequence[int] = ()
    share: Share = ALONE
    sources: SourceMap | None = None
    head: int = 0
    tail: int = 0
    compaction: Compaction | None = None
    holes: Holes = field(default_factory=Holes)
    altered: bool = False
    seen_NC: Tensor | None = None
    state: State = State.WAITING
    output_ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    num_cached: int = 0
    pages: list[int] = field(default_factory=list)
    chain: list[bytes] = field(default_factory=list)
    matcher: Matcher | None = None
    drafter: Drafter | None = None
    num_drafted: int = 0
    num_accepted: int = 0
    salt: bytes = b""
    num_preempted: int = 0
    blocks_read: int = 0
    blocks_visible: int = 0
    topk: int | None = None
    observed: Observed | None = None
    importance: Importance | None = None
    pooled: NDArray[np.float32] | None = None
    finish_reason: FinishReason | None = None
    arrived_s: float = field(default_factory=time.perf_counter)
    started_s: float = 0.0
    first_token_s: float = 0.0
    finished_s: float = 0.0

    @property
    def keeps_to_itself(self) -> bool:
        """Whether it tells of none of its pages: behind a hole they were computed with what is gone, and texts whose
        states are asked for are as a rule asked for once.
        """
        return self.altered or self.pooled is not None

    @cached_property
    def prompt_vocabulary(self) -> NDArray[np.int64]:
        """The tokens that occur in the prompt, ascending."""
        return np.unique(np.asarray(self.prompt_ids, np.int64))

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt and the answer so far, without those that were dropped."""
        return len(self.prompt_ids) + len(self.output_ids) - self.holes.num_lost

    @property
    def num_prompt_left(self) -> int:
        """Tokens of the prompt without those that were dropped."""
        return len(self.prompt_ids) - self.holes.lost_before(len(self.prompt_ids))

    @property
    def max_total(self) -> int:
        """The most tokens that it can come to hold at once."""
        total = self.num_prompt_left + self.max_tokens
        return total if self.compaction is None else min(total, self.compaction.most)

    @property
    def is_decoding(self) -> bool:
        """Whether only the newest token is still to be computed."""
        return self.num_computed == self.num_tokens - 1 and bool(self.output_ids)

    @property
    def is_full(self) -> bool:
        """Whether nothing more can be computed before a compaction."""
        return self.compaction is not None and self.num_computed == self.compaction.most

    @property
    def tail_positions(self) -> tuple[int, int]:
        """Where the prompt's protected end is now."""
        start, stop = len(self.prompt_ids) - self.tail, len(self.prompt_ids)
        return start - self.holes.lost_before(start), stop - self.holes.lost_before(stop)

    def score(self, page: int) -> float:
        """How important what one of its pages holds is: how much of it was read lately."""
        if self.importance is None or self.compaction is None:
            return 0.0
        size = self.compaction.page_size
        return self.importance.score(self.holes.place(page * size) // size)

    def topk_at(self, start: int) -> int | None:
        """How many blocks tokens from this position on read, where the answer has a number of its own."""
        return self.topk if start >= self.num_prompt_left else None

    def at_places(self, mass_B: Masses, page_size: int) -> Masses:
        """What was read of the blocks that are left, as of all blocks of prompt and answer; none of those that went."""
        num_blocks = min(-(-self.num_tokens // page_size), len(mass_B))
        if not self.holes:
            return mass_B[:num_blocks].copy()
        blocks = [self.holes.place(block * page_size) // page_size for block in range(num_blocks)]
        whole_B = np.zeros(blocks[-1] + 1, np.float32)
        whole_B[blocks] = mass_B[:num_blocks]
        return whole_B

    def dropped(self, spans: Sequence[tuple[int, int]]) -> tuple[Dropped, ...]:
        """What spans of prompt and answer are."""
        out, num_prompt = [], len(self.prompt_ids)
        for start, stop in spans:
            known = self.sources is not None and start < num_prompt
            sources = self.sources.locate(start, min(stop, num_prompt)) if known and self.sources else ()
            out.append(Dropped(start, stop, tuple(sources)))
        return tuple(out)

    def tokens(self, start: int, stop: int) -> list[int]:
        """The tokens at positions start to stop - 1."""
        return [token for piece in self.holes.pieces(start, stop) for token in self._tokens(piece)]

    def _tokens(self, piece: slice) -> list[int]:
        """Tokens of prompt and answer together, as if nothing had been dropped."""
        num_prompt = len(self.prompt_ids)
        return [
            *self.prompt_ids[piece],
            *self.output_ids[max(piece.start - num_prompt, 0) : max(piece.stop - num_prompt, 0)],
        ]

    def stats(self) -> Stats:
        """What it cost; meaningful once it has finished."""
        first = self.first_token_s or self.finished_s
        started = self.started_s or first
        return Stats(
            num_prompt=len(self.prompt_ids),
            num_cached=self.num_cached,
            num_generated=len(self.output_ids),
            queue_s=started - self.arrived_s,
            read_s=first - started,
            decode_s=self.finished_s - first,
            blocks_read=self.blocks_read,
            blocks_visible=self.blocks_visible,
            num_preempted=self.num_preempted,
            topk=self.topk,
            num_dropped=self.holes.num_lost,
            num_drafted=self.num_drafted,
            num_accepted=self.num_accepted,
        )
