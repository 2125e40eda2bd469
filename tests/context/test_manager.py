"""`ContextManager`: read once, ask, search; on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from openm3.config import EngineConfig, SparseConfig
from openm3.context.manager import ContextManager
from openm3.context.store import Store
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.errors import InputError

SHORT = SamplingParams(max_tokens=4, ignore_eos=True)


@pytest.fixture
def llm(tiny_model: Path) -> LLM:
    return LLM(tiny_model, EngineConfig(sparse=SparseConfig(index_block_size=16)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.py").write_text("def answer():\n    return 42\n")
    (tmp_path / "b.txt").write_text("The sea is calm tonight.\nThe moon is fair.\n")
    return tmp_path


def test_questions_read_only_themselves(llm: LLM, folder: Path) -> None:
    context, reads = ContextManager(llm), list[tuple[int, int]]()
    num_tokens = context.read([folder], lambda done, of: reads.append((done, of)))
    assert reads[-1] == (num_tokens, num_tokens)
    first, second = context.ask("How is the sea?", SHORT), context.ask("What is the answer?", SHORT)
    assert first.stats.num_cached >= num_tokens - 1
    assert second.stats.num_cached >= num_tokens - 1
    assert len(first.token_ids) == 4


def test_an_answer_is_that_of_the_same_prompt_without_a_manager(llm: LLM, tiny_model: Path, folder: Path) -> None:
    context = ContextManager(llm)
    context.read([folder])
    prompt = context.question("How is the sea?")
    other = LLM(tiny_model, EngineConfig(sparse=SparseConfig(index_block_size=16), prefix_cache=False))
    assert context.ask("How is the sea?", SHORT).token_ids == other.generate([prompt], SHORT)[0].token_ids


def test_finds_files_and_lines(llm: LLM, folder: Path) -> None:
    context = ContextManager(llm)
    num_tokens = context.read([folder])
    found = context.retrieve("The moon is fair.", num_tokens)
    places = {source.path: source.last_line for part in found for source in part.sources if source.path}
    assert {Path(path).name: line for path, line in places.items()} == {"a.py": 2, "b.txt": 2}


def test_is_kept_and_loaded_by_another_program(llm: LLM, tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    store, context = Store(tmp_path / "kept"), ContextManager(llm)
    num_tokens = context.read([folder])
    assert context.save("sea", store) == store.path("sea")
    other = ContextManager(LLM(tiny_model, llm.config))
    assert other.load("sea", store) == num_tokens
    answer = other.ask("How is the sea?", SHORT)
    assert answer.stats.num_cached >= num_tokens - 1
    assert answer.token_ids == context.ask("How is the sea?", SHORT).token_ids
    assert other.retrieve("The sea", 9) == context.retrieve("The sea", 9)
    context.read("a text")
    with pytest.raises(InputError, match="context: is a text, and only files are kept"):
        context.save("sea", store)


def test_what_was_compacted_is_no_longer_seen(llm: LLM, tiny_model: Path, tmp_path: Path) -> None:
    """An answer is that of a prompt that never had it, and the next question reads only itself."""
    lines = [f"line {i}\n" for i in range(40)]
    (tmp_path / "a.txt").write_text("".join(lines))
    context = ContextManager(llm)
    num_tokens = context.read([tmp_path])
    whole = context.question("What?")
    dropped = context.compact(0.5)
    assert num_tokens // 2 <= sum(span.stop - span.start for span in dropped) <= num_tokens // 2 + 32
    [path] = {source.path for span in dropped for source in span.sources} - {None}  # its marker is no file's text
    assert path is not None and Path(path).name == "a.txt"
    lost = {token for span in dropped for token in range(span.start, span.stop)}
    left = [token for place, token in enumerate(whole.ids) if place not in lost]
    other = LLM(tiny_model, EngineConfig(sparse=SparseConfig(index_block_size=16), prefix_cache=False))
    first = context.ask("What?", SHORT)
    assert first.token_ids == other.generate([left], SHORT)[0].token_ids
    assert first.dropped == dropped
    again = context.ask("What else?", SHORT)
    assert again.stats.num_cached >= len(left) - 60
    for found in context.retrieve("line 7", 60):
        assert not lost & set(range(found.start, found.stop))
    with pytest.raises(InputError, match="k: must be from 1 to the"):
        context.retrieve("line 7", num_tokens)
    more = context.compact(0.9)
    assert not lost & {token for span in more for token in range(span.start, span.stop)}
    for keep in (0, 1.0):
        with pytest.raises(InputError, match=f"keep: must be more than 0 and less than 1, got {keep}"):
            context.compact(keep)
    with pytest.raises(InputError, match="context: was compacted"):
        context.save("a")
    context = ContextManager(LLM(tiny_model))
    context.read("less than a block")
    with pytest.raises(InputError, match="keep: nothing can be dropped"):
        context.compact(0.5)


def test_compaction_keeps_what_answers_have_read(llm: LLM, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"line {i}\n" for i in range(40)))
    context = ContextManager(llm)
    num_tokens = context.read([tmp_path])
    assert context.importance.optimal_k() == 0
    answer = context.ask("What?", SHORT, evidence=True)
    assert answer.evidence is not None
    num_blocks = -(-num_tokens // 16)
    assert 0 < context.importance.optimal_k(0.95) <= num_blocks + 4
    scores = {block: context.importance.score(block) for block in range(1, num_blocks - 1)}
    lost = {span.start // 16 + i for span in context.compact(0.5) for i in range((span.stop - span.start) // 16)}
    assert max(scores[block] for block in lost) <= min(scores[block] for block in scores if block not in lost)
    context.read([tmp_path])
    assert context.importance.optimal_k() == 0, "another context has its own"


def test_reads_a_text_too(llm: LLM) -> None:
    context = ContextManager(llm)
    context.read("one\ntwo\nthree\n")
    [*found] = context.retrieve("two", 3)
    assert sum(part.stop - part.start for part in found) == 3
    context.read("four")
    assert context.prompt is not None
    assert "four" in context.text(0, len(context.prompt.ids))
    assert "one" not in context.text(0, len(context.prompt.ids)), "what was read before is gone"


def test_refuses(llm: LLM, folder: Path) -> None:
    with pytest.raises(InputError, match="max_context: must be at least 1, got 0"):
        ContextManager(llm, 0)
    context = ContextManager(llm, 20)
    for use in (lambda: context.ask("What?"), lambda: context.retrieve("sea"), lambda: context.text(0, 1)):
        with pytest.raises(InputError, match="context: nothing was read yet"):
            use()
    with pytest.raises(InputError, match="context: is empty"):
        context.read(" \n")
    with pytest.raises(InputError, match="more than max_context 20"):
        context.read([folder])
    context = ContextManager(llm)
    context.read([folder])
    with pytest.raises(InputError, match="question: is empty"):
        context.ask(" ")
    with pytest.raises(InputError, match="tokens are .* too many: the window is 512"):
        context.read("x" * 600)
    assert context.text(0, 5), "what was read before is still there"
