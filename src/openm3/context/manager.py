"""`ContextManager`: a context that is read once, and asked, searched, compacted and kept, for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from openm3 import hub
from openm3.context.files import QUESTION, Collection, collect
from openm3.context.importance import Importance
from openm3.context.retrieval import DEFAULT_TOKENS, Found, retrieve
from openm3.context.sources import Passage, SourceMap
from openm3.context.store import Store
from openm3.engine import contexts
from openm3.engine.compaction import Compaction
from openm3.engine.output import Completion, Dropped, Progress
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt
from openm3.engine.request import Request
from openm3.errors import InputError
from openm3.model.nearest import Metric

if TYPE_CHECKING:
    from openm3.engine.llm import LLM

OnRead = Callable[[int, int], object]


class ContextManager:
    """What a model has read, and what can be done with it.

        context = ContextManager(LLM("default"))
        context.read(["src"])
        print(context.ask("Where are pages freed?").text)
        for found in context.retrieve("pages that nobody uses any more"):
            print(found.sources, found.score)

    It holds no keys or values of its own: those are pages of the model's engine, known there by their tokens, and read
    again should their memory have gone to others.

    Args:
        llm: the model.
        max_context: the most tokens that a context may have; None: what the model's window holds.

    Attributes:
        prompt: the tokens of what was read, and its files and lines.
        importance: of its blocks, by what answers with evidence have read of them; nothing is known before the first.
    """

    def __init__(self, llm: LLM, max_context: int | None = None) -> None:
        if max_context is not None and max_context < 1:
            raise InputError("max_context", f"must be at least 1, got {max_context}")
        self.llm, self.max_context = llm, max_context
        self.prompt: Prompt | None = None
        self.importance = Importance()
        self._what: str | Collection = ""

    def read(self, what: str | Sequence[str | Path] | Collection, on_read: OnRead | None = None) -> int:
        """Reads a text, or files, folders and globs, in the place of what was read before; returns its tokens.

        Args:
            what: a text, a list of paths, or files that were collected already.
            on_read: called with the tokens read so far and those to read.

        Raises:
            InputError: nothing to read, or more than `max_context` or the window.
        """
        files = what if isinstance(what, str | Collection) else collect(what)
        if isinstance(files, str) and not files.strip():
            raise InputError("context", "is empty")
        one, other = self._question(files, "What?"), self._question(files, "How?")
        prompt = self._located(one, files, _common(one.ids, other.ids))
        most, num_tokens = self.max_context, len(prompt.ids)
        if most is not None and num_tokens > most:
            raise InputError("context", f"{num_tokens} tokens are {num_tokens - most} more than max_context {most}")
        _, events = self.llm.stream(prompt, SamplingParams(max_tokens=1, ignore_eos=True))
        for event in events:
            if isinstance(event, Progress) and on_read is not None:
                on_read(event.num_read, event.num_prompt)
        self.prompt, self._what, self.importance = prompt, files, Importance()
        return num_tokens

    def ask(self, question: str, params: SamplingParams | None = None, *, evidence: bool = False) -> Completion:
        """The answer to a question about what was read.

        Args:
            question: what to ask.
            params: how to sample.
            evidence: observe what is read: the answer then has `evidence`, and `importance` learns of it.

        Raises:
            InputError: nothing was read, an empty question, or no room for it in the window.
        """
        params = params or SamplingParams()
        answer = self.llm.generate([self.question(question)], replace(params, evidence=evidence or params.evidence))[0]
        for mass_B in answer.evidence.observed.readings if answer.evidence else ():
            self.importance.update(mass_B)
        return answer

    def question(self, question: str) -> Prompt:
        """The prompt of a question, for `LLM.stream` or a service. What was read is known, so only its end is read."""
        context = self._read()
        if not question.strip():
            raise InputError("question", "is empty")
        prompt = self._question(self._what, question)
        tail = len(prompt.ids) - _common(prompt.ids, context.ids)
        return replace(self._located(prompt, self._what), tail=tail, dropped=context.dropped)

    def retrieve(self, query: str, k: int = DEFAULT_TOKENS, metric: Metric = "cosine") -> list[Found]:
        """The `k` tokens of what was read that are nearest to a text, see `openm3.context.retrieval.retrieve`."""
        return retrieve(self.llm, self._read(), query, k, metric=metric)

    def compact(self, keep: float = 0.75) -> tuple[Dropped, ...]:
        """Drops the least important blocks of what was read, of equally important ones the oldest, and says which.

        Questions and searches no longer see them. What lies behind the first of them is read again with the next
        question, as if they had never been there; questions after that read only themselves.

        Args:
            keep: what is left, as a share of what there is: more than 0, less than 1.

        Raises:
            InputError: `keep` is out of range, or everything is to be kept.
        """
        context = self._read()
        if not 0 < keep < 1:
            raise InputError("keep", f"must be more than 0 and less than 1, got {keep}")
        request = Request("compact", context.ids, SamplingParams(), 1, sources=context.sources)
        request.holes.cut(context.dropped)
        num_held, size = request.num_prompt_left, self.llm.config.blocks.index_block_size
        compaction = Compaction(size, num_held, kept=int(num_held * keep) // size, newest=1)
        scores = [self.importance.score(request.holes.place(start) // size) for start in range(0, num_held, size)]
        pages = compaction.choose(num_held, context.head, (0, 0), scores.__getitem__)
        if not pages:
            raise InputError("keep", f"nothing can be dropped: {num_held} tokens are too few, or {keep} is too much")
        spans = request.holes.cut((page * size, (page + 1) * size) for page in pages)
        self.prompt = replace(context, dropped=tuple(request.holes.spans))
        return request.dropped(spans)

    def save(self, name: str, store: Store | None = None) -> Path:
        """Keeps what was read on disk, see `openm3.engine.contexts.save`; returns the file.

        Args:
            name: what it is kept as; one that is there already is replaced.
            store: where; None: where `openm3 context` keeps its own.
        """
        context, store = self._read(), store or _store_here()
        if context.dropped:
            raise InputError("context", "was compacted, and only whole files are kept; read it again")
        if isinstance(self._what, str):
            raise InputError("context", "is a text, and only files are kept; write it to a file and read that")
        contexts.save(self.llm, store, name, context, self._what)
        return store.path(name)

    def load(self, name: str, store: Store | None = None) -> int:
        """Takes a kept context in the place of what was read before; returns its tokens.

        Raises:
            InputError: there is none of that name, or the cache can't hold it.
            StoreError: it was altered, or another model or other options have read it.
        """
        with (store or _store_here()).open(name) as kept:
            contexts.load(self.llm, kept)
            files = kept.collection()
        return self.read(files)  # what doesn't fill a page is not kept

    def text(self, start: int, stop: int) -> str:
        """The text of tokens `start` to `stop - 1` of what was read."""
        return self.llm.tokenizer.decode(self._read().ids[start:stop])

    def _read(self) -> Prompt:
        if self.prompt is None:
            raise InputError("context", "nothing was read yet; call read() or load() first")
        return self.prompt

    def _question(self, what: str | Collection, question: str) -> Prompt:
        content = QUESTION.format(context=what if isinstance(what, str) else what.render(), question=question)
        if not self.llm.tokenizer.chat_template:
            return Prompt(self.llm.encode(content))
        return self.llm.encode_chat([{"role": "user", "content": content}])

    def _located(self, prompt: Prompt, what: str | Collection, num_tokens: int | None = None) -> Prompt:
        """The first tokens of a prompt, all without a number, with their files and lines."""
        ids, token_bytes = prompt.ids[:num_tokens], self.llm.tokenizer.token_bytes
        if isinstance(what, str):
            return replace(prompt, ids=ids, sources=SourceMap(ids, token_bytes, [Passage(what)]))
        return replace(prompt, ids=ids, sources=SourceMap.of_files(ids, token_bytes, what))


def _store_here() -> Store:
    return Store(hub.home() / "contexts")


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
