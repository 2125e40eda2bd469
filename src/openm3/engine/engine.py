"""The engine: a scheduler picks, a batch is built, the runner runs, tokens are sampled, the engine commits."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from openm3.config import EngineConfig
from openm3.context.evidence import Evidence, Observed
from openm3.context.importance import Importance, Masses, smallest_k
from openm3.context.sources import SourceMap
from openm3.engine.batch import build_batch
from openm3.engine.compaction import Compaction
from openm3.engine.cost import Work
from openm3.engine.fairness import ALONE, Share
from openm3.engine.output import Delta, Event, FinishReason, Progress
from openm3.engine.pages import PagePool
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt
from openm3.engine.request import Request, State
from openm3.engine.runner import Runner
from openm3.engine.sampler import Sampled, sample
from openm3.engine.scheduler import Chunk, Scheduler
from openm3.errors import InputError, WindowError
from openm3.model.pooling import Pooling
from openm3.model.watch import Watch
from openm3.text.detokenize import Detokenizer, StopStrings
from openm3.text.dialect import marker_ids, may_begin_to_think
from openm3.text.grammar import Grammars, Matcher
from openm3.text.tokenizer import Tokenizer

_NOTICED = 1e-3  # mass below it makes no page important


@dataclass(eq=False)
class _Answer:
    """A request and the text that it has become."""

    request: Request
    detokenizer: Detokenizer
    stops: StopStrings


class Engine:
    """Computes many requests at once. Not thread-safe: `Service` gives it a thread of its own.

    Args:
        runner: the model.
        tokenizer: turns tokens to text and knows the end tokens.
        config: limits of a step.
        clock: seconds from any start; what a step costs is measured with it.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        config: EngineConfig,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.runner, self.tokenizer, self.config, self._clock = runner, tokenizer, config, clock
        pool = PagePool(runner.num_pages, config.blocks.index_block_size)
        self.scheduler = Scheduler(config, pool, invariant=runner.invariant)
        self._answers: dict[str, _Answer] = {}
        self._grammars = Grammars(tokenizer, runner.decoder.config.vocab_size)
        self._names = itertools.count(1)

    def add(self, prompt: Prompt | Sequence[int], params: SamplingParams, share: Share = ALONE) -> Request:
        """Queues a prompt, whose turn comes by its share.

        The caller may read the returned request and changes nothing in it.

        Raises:
            InputError: an empty prompt, a token outside the vocabulary, or more than the window or the cache holds.
        """
        prompt = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
        prompt_ids = prompt.ids
        vocab_size = self.runner.decoder.config.vocab_size
        edges = [0, *(edge for span in prompt.dropped for edge in span), len(prompt_ids)]
        if edges != sorted(edges) or (prompt.dropped and prompt.media):
            raise InputError("prompt", "dropped must be ascending spans within it, and none where there are images")
        if not prompt.num_left:
            raise InputError("prompt", "is empty")
        if not 0 <= min(prompt_ids) <= max(prompt_ids) < vocab_size:
            raise InputError("prompt", f"holds a token id outside 0 to {vocab_size - 1}")
        if wrong := [token_id for token_id, _ in params.logit_bias if token_id >= vocab_size]:
            raise InputError("logit_bias", f"{wrong[0]} is no token id; they end at {vocab_size - 1}")
        if params.seed is None:
            params = replace(params, seed=int.from_bytes(os.urandom(7), "little"))
        max_tokens, compaction = self._room(prompt, params)
        request = Request(f"request-{next(self._names)}", prompt_ids, params, max_tokens, prompt.media, prompt.places)
        request.share = share
        request.sources, request.head, request.tail = prompt.sources, prompt.head, prompt.tail
        request.compaction = compaction
        if compaction is not None and self.config.tensor_parallel == 1:
            request.importance = Importance()
        if params.pool:
            request.pooled = np.zeros(self.runner.decoder.config.hidden_size, np.float32)
        request.holes.cut(prompt.dropped)
        request.salt = b"".join(patches.digest for patches in prompt.media)
        request.matcher = self._matcher(prompt, params)
        if params.evidence:
            if self.config.tensor_parallel > 1:
                raise InputError("evidence", "is for a model in one process; leave it out, or set tensor_parallel to 1")
            sources = prompt.sources or SourceMap(prompt_ids, self.tokenizer.token_bytes)
            request.observed = Observed(sources, self.config.blocks.index_block_size, self.tokenizer.special_ids)
        self.scheduler.add(request)
        detokenizer = Detokenizer(self.tokenizer, marker_ids(self.tokenizer, prompt.dialect))
        self._answers[request.request_id] = _Answer(request, detokenizer, StopStrings(params.stop))
        return request

    def _room(self, prompt: Prompt, params: SamplingParams) -> tuple[int, Compaction | None]:
        """The most tokens of the answer, and how the sequence is compacted where they are too many.

        Raises:
            InputError: prompt and answer are more than the window, and can't be compacted.
        """
        window, num_prompt = self.runner.max_context, prompt.num_left
        room = window - num_prompt
        if self.config.overflow == "compact" and not prompt.media and not params.pool:
            pool = self.scheduler.pool
            compaction = Compaction.of(self.config, min(window, pool.num_pages * pool.page_size))
            max_tokens = params.max_tokens or max(room, compaction.freed)
            if num_prompt + max_tokens > compaction.most:
                compaction.check(prompt.head, prompt.tail)
                return max_tokens, compaction
        if room < 1:
            why = ""
            if self.config.overflow == "compact":
                why = ", and a prompt with images or videos can't be compacted"
            raise WindowError(
                "prompt",
                f"{num_prompt} tokens are {1 - room} too many: the window is {window} tokens "
                f"and the answer needs at least one{why}",
            )
        return min(room, params.max_tokens or room), None

    def _matcher(self, prompt: Prompt, params: SamplingParams) -> Matcher | None:
        """What says how the answer may go on.

        Raises:
            InputError: the constraint can't be compiled, or can't be kept beside calls of tools.
        """
        if params.constraint is None and params.max_thinking is None:
            return None
        if prompt.tools and params.constraint and params.constraint.kind != "tool_calls":
            raise InputError("constraint", "an answer with a constraint can't call tools; leave one of them out")
        may_think = may_begin_to_think(self.tokenizer, prompt.dialect, prompt.ids)
        return self._grammars.matcher(
            params.constraint,
            prompt.dialect,
            thinking=prompt.thinking,
            may_think=may_think,
            max_thinking=params.max_thinking,
        )

    def cancel(self, request: Request) -> None:
        """Ends a request and frees its pages at once; nothing more is said about it."""
        self._end(request, FinishReason.CANCELLED)

    def step(self) -> list[Event]:
        """Computes one step; empty when there is nothing to do."""
        chunks = self.scheduler.schedule()
        compacted: list[Event] = [*self.scheduler.compacted]
        self.scheduler.compacted.clear()
        self._copy()
        if not chunks:
            return compacted
        self._see([chunk.request for chunk in chunks])
        started = self._clock()
        own_topk = self.config.topk if self.config.attention_mass is not None else None
        batch = build_batch(chunks, self.scheduler.pool.page_size, own_topk)
        logits_LV = self.runner.run(batch)
        self.scheduler.cost.learn(sum((chunk.work for chunk in chunks), Work()), self._clock() - started)
        if batch.probe is not None:
            self._choose_topk(chunks, batch.probe)
        readings = () if batch.watch is None else batch.watch.mass_WB().numpy()
        if batch.pooling is not None:
            _pool(chunks, batch.pooling)
        return compacted + self._commit(chunks, logits_LV, readings)

    def _copy(self) -> None:
        """Copies and moves the pages that the scheduler wants so, each once and in its order."""
        copies = self.scheduler.copies
        for copy in copies:
            if copy.source != copy.target:
                self.runner.copy_page(copy.source, copy.target)
        if shifted := [copy for copy in copies if copy.shift]:
            self.runner.shift_pages([copy.target for copy in shifted], [copy.shift for copy in shifted])
        copies.clear()

    def _see(self, requests: Sequence[Request]) -> None:
        """Computes the embeddings of images and videos that are read for the first time, and lets the pixels go."""
        for request in requests:
            if request.media and request.places[-1] >= request.num_computed:  # else a known prefix holds them
                request.seen_NC, request.media = self.runner.see(request.media), ()

    def _choose_topk(self, chunks: Sequence[Chunk], probe: Watch) -> None:
        """Decides how many blocks the tokens of answers read whose prompts end in this step."""
        assert self.config.attention_mass is not None and self.config.topk is not None
        sparse = self.config.blocks
        least = sparse.index_init_blocks + sparse.index_local_blocks
        ending = [chunk.request for chunk in chunks if chunk.ends_prompt]
        for request, held_B in zip(ending, probe.mass_WB().numpy(), strict=True):
            request.topk = min(max(smallest_k(held_B, self.config.attention_mass), least), self.config.topk)

    def _commit(self, chunks: list[Chunk], logits_LV: Tensor, readings: Iterable[Masses]) -> list[Event]:
        """Takes over what the step computed: the logits and readings of the chunks' last rows, as far as wanted."""
        events: list[Event] = []
        rows, masses = iter(logits_LV), iter(readings)
        for chunk in chunks:
            request = chunk.request
            self._advance(request, chunk.stop)
            if not request.output_ids:
                num_read = request.holes.place(chunk.stop - 1) + 1
                events.append(Progress(request.request_id, num_read, len(request.prompt_ids)))
            own_rows = list(itertools.islice(rows, chunk.num_logits))
            own_masses = list(itertools.islice(masses, chunk.num_watched))
            fills_window = chunk.fills_window
            if request.pooled is None:
                events += self._answer(chunk, own_rows, own_masses)
            elif chunk.completes:
                events.append(self._pooled(request, request.pooled))
            if own_masses:
                self._weigh(request, own_masses[-1], fills_window and request.num_computed == request.max_total)
        return events

    def _weigh(self, request: Request, mass_B: Masses, fills_window: bool) -> None:
        """Adds what a token has read to the importance of pages, and before a compaction of the request's blocks."""
        for page, mass in zip(request.pages, mass_B.tolist(), strict=False):
            if mass >= _NOTICED:
                self.scheduler.pool.weigh(page, mass)
        if fills_window and request.importance is not None:
            request.importance.update(request.at_places(mass_B, self.scheduler.pool.page_size))

    def _advance(self, request: Request, num_computed: int) -> None:
        """The request's tokens are computed so far."""
        topk = request.topk_at(request.num_computed) or self.config.topk
        _count_blocks(request, request.num_computed, num_computed, self.scheduler.pool.page_size, topk)
        self.scheduler.commit(request, num_computed)

    def _answer(self, chunk: Chunk, logits_LV: Sequence[Tensor], readings: Sequence[Masses]) -> list[Delta]:
        """The next token, and one more for each draft token that is what was sampled in its place."""
        request, deltas, num_right = chunk.request, list[Delta](), 0
        drafter = request.drafter
        for i, (logits_V, drafted) in enumerate(zip(logits_LV, (*chunk.draft, None), strict=False)):
            answer = self._answers[request.request_id]
            if request.matcher is not None and not request.matcher.allowed().any():
                return [*deltas, self._cut(answer)]
            if request.observed is not None:
                request.observed.add(request.at_places(readings[i], self.scheduler.pool.page_size))
            delta = self._append(answer, sample(logits_V, request, self.tokenizer.token_bytes))
            deltas.append(delta)
            num_right += delta.token_id == drafted
            if delta.token_id != drafted or delta.finish_reason is not None:
                break
            self._advance(request, request.num_computed + 1)  # the token's keys and values are there already
        if chunk.draft and drafter:
            drafter.learn(len(chunk.draft), num_right)
            request.num_drafted += len(chunk.draft)
            request.num_accepted += num_right
        return deltas

    def _append(self, answer: _Answer, sampled: Sampled) -> Delta:
        request, params, token_id = answer.request, answer.request.params, sampled.token_id
        request.first_token_s = request.first_token_s or time.perf_counter()
        request.output_ids.append(token_id)
        if request.matcher is not None:
            request.matcher.take(token_id)
        is_end = token_id in self.tokenizer.eos_ids and not params.ignore_eos
        text, reason, hit = "", None, None
        if is_end or token_id in params.stop_token_ids:
            reason = FinishReason.STOP
        else:
            text, hit = answer.stops.push(answer.detokenizer.push(token_id))
            if hit is not None or (request.matcher is not None and request.matcher.is_complete):
                reason = FinishReason.STOP
            elif len(request.output_ids) == request.max_tokens:
                reason = FinishReason.LENGTH
        if reason is not None:
            if hit is None:
                tail, hit = answer.stops.push(answer.detokenizer.finish())
                text += tail + ("" if hit else answer.stops.finish())
            self._end(request, reason)
        delta = Delta(request.request_id, text, token_id, reason, sampled.logprob)
        return delta if reason is None else replace(delta, evidence=_evidence(request), stop=hit, stats=request.stats())

    def _pooled(self, request: Request, sum_C: NDArray[np.float32]) -> Delta:
        """Ends a request that asked for the states of its prompt."""
        self._end(request, FinishReason.STOP)
        state_C = sum_C / np.float32(request.num_prompt_left)
        return Delta(request.request_id, "", None, FinishReason.STOP, state=state_C, stats=request.stats())

    def _cut(self, answer: _Answer) -> Delta:
        """Ends an answer that no token can go on with."""
        request, text = answer.request, answer.detokenizer.finish()
        self._end(request, FinishReason.LENGTH)
        reason, evidence, stats = FinishReason.LENGTH, _evidence(request), request.stats()
        return Delta(request.request_id, text, None, reason, evidence=evidence, stats=stats)

    def _end(self, request: Request, reason: FinishReason) -> None:
        if request.state is not State.FINISHED:
            self.scheduler.finish(request, reason)
            request.seen_NC, request.media = None, ()
            del self._answers[request.request_id]


def _evidence(request: Request) -> Evidence | None:
    """What a finished answer was read from, where that was observed."""
    return None if request.observed is None else request.observed.evidence(request.output_ids)


def _pool(chunks: Sequence[Chunk], pooling: Pooling) -> None:
    """Adds the states of this step; a request that begins again, after it gave its pages up, begins with none."""
    pooled = [chunk for chunk in chunks if chunk.request.pooled is not None]
    for chunk, sum_C in zip(pooled, pooling.sums_SC().numpy(), strict=True):
        chunk.request.pooled = sum_C if chunk.start == 0 else chunk.request.pooled + sum_C


def _count_blocks(request: Request, start: int, stop: int, page_size: int, topk: int | None) -> None:
    """Adds what the queries of tokens `start` to `stop - 1` see and read: the selection always fills its slots."""
    for block in range(start // page_size, (stop - 1) // page_size + 1):
        queries = min(stop, (block + 1) * page_size) - max(start, block * page_size)
        request.blocks_visible += queries * (block + 1)
        request.blocks_read += queries * min(block + 1, topk or block + 1)
