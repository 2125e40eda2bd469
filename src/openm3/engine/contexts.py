"""Contexts between cache and disk: what a model has read is saved, and known again in another process."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from openm3.context.files import Collection
from openm3.context.store import About, Context, Section, Store, StoredFile, differences, digest
from openm3.engine.llm import LLM
from openm3.engine.prompt import Prompt
from openm3.errors import InputError, StoreError
from openm3.model.arena import can_map, map_file

# Fields of `EngineConfig` that change no key and value. Whatever isn't named here has to be the same.
_FREE = {
    "index", "device", "cuda_graphs", "cache_bytes", "spill", "spill_dir", "spill_bytes",
    "max_context", "prefix_cache", "max_running", "max_batch_tokens", "step_ms", "speculation",
    "overflow",  # what was compacted is never known
    "backend", "weights", "index_branch",  # the ones in use are compared instead
}  # fmt: skip


def identity_of(llm: LLM) -> dict[str, str]:
    """Everything that keys and values depend on."""
    config, runner = llm.config, llm.engine.runner
    values = {"model": llm.identity, "backend": runner.backend, "weights": runner.weights}
    values["index_branch"] = llm.branch.identity if llm.branch else "none"
    values |= {field.name: str(getattr(config, field.name)) for field in fields(config) if field.name not in _FREE}
    if config.attention == "dense":
        values["sparse"] = f"blocks of {config.blocks.index_block_size}"
    if config.extend in ("ntk", "yarn"):  # they stretch by the window
        values["max_context"] = str(config.max_context)
    if runner.invariant:
        del values["prefill_chunk"]
    return values


def save(
    llm: LLM,
    store: Store,
    name: str,
    prompt: Prompt,
    files: Collection,
    *,
    options: dict[str, Any] | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> About:
    """Saves the pages of a prompt that was read and is still known.

    Args:
        llm: the model; its engine is idle, or this is called between two steps.
        store, name: where to.
        prompt: begins with the context.
        files: that are in it.
        options: kept beside it, see `About`.
        report: told how many bytes of how many are written.

    Raises:
        InputError: the prompt fills no page, isn't known any more, or can't be kept.
        StoreError: it can't be written.
    """
    _check_can_keep(llm)
    if prompt.media:
        raise InputError("--context", "contexts with images can't be kept yet")
    pool = llm.engine.scheduler.pool
    pages = pool.share(pool.match(prompt.ids).pages)
    try:
        num_tokens = len(pages) * pool.page_size
        if not pages or num_tokens < len(prompt.ids) - llm.config.prefill_chunk:
            raise InputError(
                "--context",
                f"of {len(prompt.ids):,} tokens {num_tokens:,} are in the cache as full pages: too few to keep",
            )
        about = About(
            model=llm.name,
            identity=identity_of(llm),
            options=options or {},
            num_tokens=num_tokens,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            files=_stored_files(prompt, files),
        )
        total = sum(len(pages) * tensor[0].nbytes for _, tensor in _tensors(llm))
        sections = _sections(_tensors(llm), pages, prompt.ids[:num_tokens], files)
        store.save(name, about, sections, lambda done: report(min(done, total), total))
    finally:
        pool.free(pages)
    return about


def load(llm: LLM, context: Context) -> int:
    """Makes a context known to the prefix cache; returns its tokens. Pages lie in the file until they are touched.

    Args:
        llm: the model; its engine is idle, or this is called between two steps.
        context: an open one; it may be closed afterwards.

    Raises:
        InputError: the cache can't hold it.
        StoreError: it is another model's, or was altered.
    """
    check(llm, context)
    context.verify(torch.get_num_threads())
    pool, tokens = llm.engine.scheduler.pool, context.tokens()
    num_pages = len(tokens) // pool.page_size
    if len(pool.match([*tokens, 0]).pages) == num_pages:
        return len(tokens)
    if num_pages > pool.num_free:
        raise InputError(
            "cache_bytes",
            f"{context.path.name} has {len(tokens):,} tokens and the cache holds {pool.num_free * pool.page_size:,}; "
            "give it more memory, or a longer window",
        )
    pages = pool.allocate(num_pages)
    try:
        for key, tensor in _tensors(llm):
            _fill(tensor, pages, context, key, may_map=llm.engine.runner.spill is None)
        for layer in llm.engine.runner.cache.layers:
            if layer.quantised is not None:
                layer.quantised.quantise(layer.choosing, torch.tensor(pages))
            if layer.residency is not None:
                layer.residency.give_back()
        parent = b""
        for i, page in enumerate(pages):
            found = pool.remember(page, parent, tokens[i * pool.page_size : (i + 1) * pool.page_size])
            assert found is not None
            parent = found
    finally:
        pool.free(pages)
    return len(tokens)


def check(llm: LLM, context: Context) -> None:
    """Whether a context is this model's, read in the same way.

    Raises:
        StoreError: it isn't; says what differs.
    """
    _check_can_keep(llm)
    if different := differences(context.about.identity, identity_of(llm)):
        raise StoreError(f"{context.path}: was read differently: {'; '.join(different)}")
    pool = llm.engine.scheduler.pool
    num_pages, rest = divmod(context.about.num_tokens, pool.page_size)
    sizes = {key: num_pages * tensor[0].nbytes for key, tensor in _tensors(llm)}
    sizes |= {"tokens": 8 * context.about.num_tokens, "text": sum(file.num_bytes for file in context.about.files)}
    if rest or any(context.place(key)[1] != size for key, size in sizes.items()):
        raise StoreError(f"{context.path}: its sections have other sizes than this model's pages; save it again")


def _check_can_keep(llm: LLM) -> None:
    if llm.config.tensor_parallel > 1:
        raise InputError("tensor_parallel", "contexts are kept and loaded by one process; leave it at 1")
    if not llm.config.prefix_cache:
        raise InputError("prefix_cache", "contexts are found through it; leave it on")


def _tensors(llm: LLM) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of the cache with its section's name."""
    for number, layer in enumerate(llm.engine.runner.cache.layers):
        for name, tensor in layer.tensors().items():
            yield f"{number}.{name}", tensor
        if layer.residency is not None:  # what was done with these has touched all of it
            layer.residency.give_back()


def _stored_files(prompt: Prompt, files: Collection) -> tuple[StoredFile, ...]:
    spans = prompt.sources.locate(0, len(prompt.ids)) if prompt.sources else []
    places = {span.path: (span.start, span.stop) for span in spans if span.path is not None}
    stored = []
    for file in files.files:
        data = file.text.encode()
        start, stop = places.get(file.path, (0, 0))
        absolute = str(file.absolute)
        stored.append(StoredFile(file.path, absolute, digest=digest(data), num_bytes=len(data), start=start, stop=stop))
    return tuple(stored)


def _sections(
    tensors: Iterable[tuple[str, Tensor]], pages: Sequence[int], tokens: Sequence[int], files: Collection
) -> Iterator[Section]:
    yield "text", (memoryview(file.text.encode()) for file in files.files)
    yield "tokens", [memoryview(array("q", tokens)).cast("B")]
    for name, tensor in tensors:
        yield name, (_bytes(tensor[first : first + count].cpu()) for first, count in _runs(pages))


def _fill(tensor: Tensor, pages: Sequence[int], context: Context, name: str, *, may_map: bool) -> None:
    """Maps or copies. What lies in a file of its own is copied: taken out of memory, it is read from there again."""
    offset = context.place(name)[0]
    for first, count in _runs(pages):
        part = tensor[first : first + count]
        if part.device.type == "cpu" and may_map and can_map(part, offset):
            map_file(part, context.fileno, offset)
        elif part.device.type == "cpu":
            context.read_into(_bytes(part), offset)
        else:
            data = torch.empty_like(part, device="cpu")
            context.read_into(_bytes(data), offset)
            part.copy_(data)
        offset += part.nbytes


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.view(torch.uint8).numpy().data.cast("B")


def _runs(pages: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Stretches of pages that lie one after the other: the first page and how many they are."""
    breaks = [i + 1 for i, (a, b) in enumerate(pairwise(pages)) if b != a + 1]
    for start, stop in pairwise([0, *breaks, len(pages)]):
        yield pages[start], stop - start
