"""Which tokens are computed in the next step. No torch here.

Requests of one share run in the order in which they came, and shares take turns by their weights (`FairQueue`). A step
computes the next token of everyone who is answering, then chunks of the prompts that are still being read, those of the
share first that had least. A request is admitted when the pages for all that is known of it are
free; when an answer needs a page and none is free, the newest request gives its pages up and is computed again later.

While somebody is answering, a step should not take longer than `step_s`, or twice what the answers alone take where
that is more: what is read beside is cut to whole pages that fit, by what steps have cost so far, or to quarters of one.
That needs kernels for which it makes no difference how a prompt is cut.
A request that has filled its window drops its least important blocks, where it may; what is left goes on.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from openm3.config import EngineConfig
from openm3.engine.cost import StepCost, Work
from openm3.engine.draft import Drafter
from openm3.engine.fairness import FairQueue
from openm3.engine.output import Compacted, FinishReason
from openm3.engine.pages import PagePool
from openm3.engine.prefix import Match
from openm3.engine.request import Request, State
from openm3.errors import InputError

_STEP_MS = 100  # ten tokens a second are still read with ease
_LONGEST_DRAFT = 32
_PIECES = 4  # of a page, which is read in parts where a whole one takes too long


@dataclass(frozen=True)
class Chunk:
    """Tokens `start` to `stop - 1` of a request, to be computed in one step, and `draft` behind them.

    Draft tokens are rows of the same sequence. Those that turn out to be what is sampled are the answer's; the slots of
    all others are written again by the tokens that stand there.
    """

    request: Request
    start: int
    stop: int
    draft: tuple[int, ...] = ()

    @property
    def completes(self) -> bool:
        """Whether the step computes the last known token, so that the next one can be sampled."""
        return self.stop == self.request.num_tokens

    @property
    def end(self) -> int:
        """One more than the last position that is written."""
        return self.stop + len(self.draft)

    @property
    def num_logits(self) -> int:
        """Rows whose logits are wanted: the last known token and the draft."""
        return 1 + len(self.draft) if self.completes else 0

    @property
    def num_watched(self) -> int:
        """The last rows that are observed: for evidence those whose logits are wanted, of which the next tokens come.

        For importance it is the row that fills the window, which is computed whatever was known of the sequence; so a
        known prefix changes nothing of what a compaction drops.
        """
        num_rows = self.num_logits if self.request.observed is not None else 0
        return max(num_rows, 1) if self.fills_window else num_rows

    @property
    def fills_window(self) -> bool:
        """Whether a compaction may come next, which asks what is important: a draft may turn out to be wrong."""
        request = self.request
        return request.importance is not None and self.end == request.max_total

    @property
    def ends_prompt(self) -> bool:
        """Whether its last token is the prompt's, computed for the first token of the answer."""
        return self.completes and not self.request.output_ids

    @property
    def work(self) -> Work:
        """What it is to compute it."""
        return Work.of(self.start, self.end)


@dataclass(frozen=True)
class Copy:
    """The first tokens of page `source` go to page `target`, before the step's chunks are computed.

    Their keys move by `shift` positions; where that is all, source and target are the same page.
    """

    source: int
    target: int
    shift: int = 0


class Scheduler:
    """Keeps the waiting and the running requests, and hands out pages.

    Args:
        config: limits of a step.
        pool: the pages.
        invariant: whether a token's keys and values have the same bits however it was computed. If not, only what was
            computed as whole chunks of a prompt is used again, so that a known prefix changes no token, and a prompt is
            always cut alike, however long its chunks take.

    Attributes:
        step_s: how long a step may take while somebody is answering; None where prompts are always cut alike.
        drafts: whether answers are drafted ahead (`speculation`), where that changes no token.
        cost: how long steps take; the engine tells it.

    Raises:
        InputError: a time is given for steps, or drafts are asked for, and kernels are not invariant.
    """

    def __init__(self, config: EngineConfig, pool: PagePool, *, invariant: bool = True) -> None:
        asked = {"step_ms": config.step_ms is not None, "speculation": config.speculation == "lookup"}
        for name in (name for name, is_asked in asked.items() if is_asked and not invariant):
            raise InputError(
                name,
                "needs kernels that compute a token alike in any company, the native ones in bfloat16 in one process; "
                "leave it out here",
            )
        self.config, self.pool, self.invariant = config, pool, invariant
        self.step_s = (config.step_ms or _STEP_MS) / 1000 if invariant else None
        self.drafts = config.speculation != "off" and invariant
        self.cost = StepCost()
        self.copies: list[Copy] = []  # for the next step, in this order
        self.compacted: list[Compacted] = []  # what the next step has to tell
        self.waiting = FairQueue()
        self.running: list[Request] = []

    def add(self, request: Request) -> None:
        """Queues a request.

        Raises:
            InputError: it could never run, even alone.
        """
        needed = self.pool.pages_for(request.max_total)
        if needed > self.pool.num_pages:
            raise InputError(
                "prompt",
                f"with its answer it may come to {request.max_total} tokens and the cache holds "
                f"{self.pool.num_pages * self.pool.page_size}; ask for fewer tokens or give the cache more memory",
            )
        self.waiting.add(request)

    def schedule(self) -> list[Chunk]:
        """The chunks of the next step; empty when nothing waits or runs."""
        self._admit()
        chunks = self._answers()
        work = sum((chunk.work for chunk in chunks), Work())
        reading = [request for request in self.running if not request.is_decoding]
        for request in sorted(reading, key=self.waiting.time):
            if request.state is State.RUNNING and request.is_full:
                self._compact(request)
            length = self._next_length(request, chunks, work)
            is_room = 0 < length <= self.config.max_batch_tokens - work.rows
            if request.state is State.RUNNING and is_room and self._grow(request, length):
                chunks.append(Chunk(request, request.num_computed, request.num_computed + length))
                work += chunks[-1].work
        chunks = [chunk for chunk in chunks if chunk.request.state is State.RUNNING]  # one may have given way since
        for chunk in chunks:
            self.waiting.charge(chunk.request, chunk.stop - chunk.start)
        return chunks

    def finish(self, request: Request, reason: FinishReason) -> None:
        """Ends a request, wherever it is, and frees its pages at once."""
        if request.state is State.FINISHED:
            return
        (self.running if request.state is State.RUNNING else self.waiting).remove(request)
        self.waiting.leave(request)
        self._release(request)
        request.state, request.finish_reason, request.drafter = State.FINISHED, reason, None
        request.finished_s = time.perf_counter()

    def commit(self, request: Request, num_computed: int) -> None:
        """The request's tokens are computed so far: pages that are full of them now become known."""
        request.num_computed, size = num_computed, self.pool.page_size
        if not self.config.prefix_cache or request.keeps_to_itself:
            return
        chunk = self.config.prefill_chunk
        known = num_computed if self.invariant else min(num_computed, request.num_prompt_left) // chunk * chunk
        if self.config.attention_mass is not None:  # an answer reads fewer blocks than a prompt that would find it
            known = min(known, request.num_prompt_left)
        for page in range(len(request.chain), known // size):
            tokens = request.tokens(page * size, (page + 1) * size)
            digest = self.pool.remember(request.pages[page], self._parent(request), tokens)
            assert digest is not None
            request.chain.append(digest)

    def check(self) -> None:
        """Asserts the invariants of queue and pages."""
        self.pool.check([request.pages for request in self.running])
        assert all(request.state is State.RUNNING for request in self.running)
        assert all(request.state is State.WAITING and not request.pages for request in self.waiting)
        assert len(self.running) <= self.config.max_running
        for request in self.running:
            assert request.num_computed < request.num_tokens
            assert request.compaction is not None or request.num_tokens <= request.max_total
            assert request.num_computed <= request.max_total
            assert len(request.pages) >= self.pool.pages_for(request.num_computed)

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self.config.max_running:
            request = self.waiting.first(self.running)
            match = self._match(request)
            request.pages.extend(self.pool.share(match.pages))
            needed = self.pool.pages_for(min(request.num_tokens, request.max_total)) - len(match.pages)
            if needed > self.pool.num_free:
                self.pool.free(request.pages)
                return  # whose turn it is has to fit: a long prompt is not overtaken for ever
            self.waiting.remove(request)
            request.pages.extend(self.pool.allocate(needed))
            request.chain[:] = match.chain
            request.num_computed = len(match.pages) * self.pool.page_size + match.num_partial
            if match.partial is not None:
                self.copies.append(Copy(match.partial, request.pages[len(match.pages)]))
            if not request.num_preempted:
                request.num_cached = request.num_computed
            request.state = State.RUNNING
            request.started_s = request.started_s or time.perf_counter()
            self.running.append(request)

    def _match(self, request: Request) -> Match:
        if not self.config.prefix_cache or request.pooled is not None:
            return Match()
        match = self.pool.match(request.tokens(0, min(request.num_tokens, request.max_total)), request.salt)
        if self.invariant:
            return match
        usable = len(match.pages)
        while usable * self.pool.page_size % self.config.prefill_chunk:
            usable -= 1
        return Match(match.pages[:usable], match.chain[:usable])

    def _parent(self, request: Request) -> bytes:
        return request.chain[-1] if request.chain else request.salt

    def _release(self, request: Request) -> None:
        """Gives a request's pages back; the last one, not full, becomes known too."""
        full = len(request.chain)
        rest = request.tokens(full * self.pool.page_size, request.num_computed)
        copies = [copy for copy in self.copies if copy.target not in request.pages]
        is_there = len(copies) == len(self.copies)  # else the request gives way before its first tokens were copied
        self.copies = copies
        remembers = self.config.prefix_cache and self.invariant and not request.keeps_to_itself
        remembers = remembers and (self.config.attention_mass is None or not request.output_ids)
        if remembers and is_there and 0 < len(rest) < self.pool.page_size:
            self.pool.remember(request.pages[full], self._parent(request), rest)
        self.pool.free(request.pages)
        request.chain.clear()

    def _answers(self) -> list[Chunk]:
        """The next token of everyone who is answering, with drafts where they pay."""
        chunks: list[Chunk] = []
        for request in [request for request in self.running if request.is_decoding]:
            if request.state is State.RUNNING and request.is_full:
                self._compact(request)
            if request.state is State.RUNNING and self._grow(request, 1):
                chunks.append(Chunk(request, request.num_computed, request.num_tokens))
        if self.drafts and self.cost.knows:
            work, expected = sum((chunk.work for chunk in chunks), Work()), float(len(chunks))
            for i, chunk in enumerate(chunks):
                chunks[i], work, expected = self._with_draft(chunk, work, expected)
        return chunks

    def _with_draft(self, chunk: Chunk, work: Work, expected: float) -> tuple[Chunk, Work, float]:
        """The chunk with as long a draft as makes the step's tokens a second more.

        `work` is the step's, `expected` how many tokens it will probably give; both come back with the draft's.
        """
        request = chunk.request
        request.drafter = request.drafter or Drafter(request.prompt_ids, request.output_ids, request.matcher)
        room = min(
            _LONGEST_DRAFT,
            request.max_tokens - len(request.output_ids) - 1,  # the token after a draft is sampled in any case
            request.max_total - chunk.stop,
            self.config.max_batch_tokens - self.config.prefill_chunk - work.rows,
            (len(request.pages) + self.pool.num_free) * self.pool.page_size - chunk.stop,
        )
        draft = request.drafter.draft(room)
        count, gain, seconds = 0, draft.chance, self.cost.seconds(work)
        while count < len(draft.tokens):
            longer = work + Work(1, chunk.stop + count + 1, 1)
            longer_s = self.cost.seconds(longer)
            if gain * seconds <= expected * (longer_s - seconds):
                break
            work, expected, seconds = longer, expected + gain, longer_s
            count, gain = count + 1, gain * draft.chance
        chunk = replace(chunk, draft=draft.tokens[:count])
        request.pages.extend(self.pool.allocate(self.pool.pages_for(chunk.end) - len(request.pages)))
        return chunk, work, expected

    def _next_length(self, request: Request, before: Sequence[Chunk], work: Work) -> int:
        """Up to the next multiple of the chunk size; less beside answers, and perhaps nothing behind other prompts.

        `before` are the step's chunks so far, `work` what they cost.
        """
        start, chunk = request.num_computed, self.config.prefill_chunk
        longest = min(chunk - start % chunk, request.num_tokens - start, request.max_total - start)
        if self.config.attention_mass is not None and start < request.num_prompt_left:
            longest = min(longest, request.num_prompt_left - start)  # the answer reads another number of blocks
        if self.step_s is None or not before or not before[0].request.is_decoding:
            return longest
        answers = sum((chunk.work for chunk in before if chunk.request.is_decoding), Work())
        limit_s = max(self.step_s, 2 * self.cost.seconds(answers))
        is_first, page = before[-1].request.is_decoding, self.pool.page_size
        for piece in (page, max(1, page // _PIECES)) if is_first else (page,):
            stops = [*range(start + piece - start % piece, start + longest, piece), start + longest]
            fitting = bisect_right(stops, limit_s, key=lambda stop: self.cost.seconds(work + Work.of(start, stop)))
            if fitting:
                return stops[fitting - 1] - start
        return stops[0] - start if is_first else 0  # something has to be read

    def _grow(self, request: Request, length: int) -> bool:
        """Sees that the next tokens have pages; False when the request itself had to give way."""
        missing = self.pool.pages_for(request.num_computed + length) - len(request.pages)
        while self.pool.num_free < missing:
            if not self._preempt_newest(request):
                return False
        if missing > 0:
            request.pages.extend(self.pool.allocate(missing))
        return True

    def _compact(self, request: Request) -> None:
        """Drops the least important pages and moves up what is behind them.

        Pages that others use, or that a prompt may find, are copied and stay as they are. Where there is no memory for
        that, the newest request gives way, perhaps this one.
        """
        assert request.compaction is not None
        size, pages = self.pool.page_size, request.pages
        dropped = request.compaction.choose(request.num_computed, request.head, request.tail_positions, request.score)
        moved = [i for i in range(dropped[0], len(pages)) if i not in dropped]
        while not self._can_move([pages[i] for i in dropped], [pages[i] for i in moved]):
            if not self._preempt_newest(request):
                return
        self.pool.free([pages[i] for i in dropped])
        for position, i in enumerate(moved, start=dropped[0]):
            target = pages[i]
            if not self.pool.may_write(pages[i]):
                [target] = self.pool.allocate(1)
                self.pool.free([pages[i]])
            self.copies.append(Copy(pages[i], target, (position - i) * size))
            pages[position] = target
        del pages[dropped[0] + len(moved) :]
        del request.chain[dropped[0] :]
        spans = request.holes.cut((i * size, (i + 1) * size) for i in dropped)
        request.num_computed -= len(dropped) * size
        request.altered = True
        self.compacted.append(Compacted(request.request_id, request.dropped(spans), request.num_computed))

    def _can_move(self, dropped: Sequence[int], moved: Sequence[int]) -> bool:
        """Whether there is memory for the copies: each one needs a page before it gives its own back."""
        free = self.pool.num_free + sum(not self.pool.is_shared(page) for page in dropped)
        for page in moved:
            if not self.pool.may_write(page):
                if not free:
                    return False
                free -= self.pool.is_shared(page)
        return True

    def _preempt_newest(self, request: Request) -> bool:
        """Takes the newest request's pages, for this one; False when it is this one itself."""
        newest = self.running[-1]
        self._preempt(newest)
        return newest is not request

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self._release(request)
        request.num_computed, request.altered = 0, False
        request.num_preempted += 1
        request.state = State.WAITING
        self.waiting.put_back(request)
