"""Evidence through the engine: laws on the tiny model, planted facts with the default one."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openm3.config import EngineConfig, SparseConfig
from openm3.context.files import Collection, ContextFile
from openm3.context.importance import Masses
from openm3.context.sources import SourceMap
from openm3.engine.engine import Engine
from openm3.engine.llm import LLM
from openm3.engine.output import Completion
from openm3.engine.params import SamplingParams
from openm3.errors import InputError

PAGE = 16
PLAIN = SamplingParams(max_tokens=24, ignore_eos=True)
WATCHED = replace(PLAIN, evidence=True)
PROMPT = "The quick brown fox jumps over the lazy dog. " * 5


def load(model: Path, **changes: Any) -> LLM:
    sparse = SparseConfig(index_block_size=PAGE, index_topk_blocks=3)
    return LLM(model, EngineConfig(**{"sparse": sparse, "prefill_chunk": 32, "max_batch_tokens": 96, **changes}))


def readings(completion: Completion) -> list[Masses]:
    assert completion.evidence is not None
    return completion.evidence.observed.readings


@pytest.mark.parametrize("attention", ["dense", "sparse"])
@pytest.mark.parametrize("backend", ["native", "torch", "reference"])
def test_watching_changes_no_token_and_sees_all_mass(tiny_model: Path, attention: str, backend: str) -> None:
    llm = load(tiny_model, attention=attention, backend=backend, dtype="float32")
    [plain] = llm.generate([PROMPT], PLAIN)
    [watched] = llm.generate([PROMPT], WATCHED)
    assert plain.evidence is None
    assert watched.token_ids == plain.token_ids
    masses = readings(watched)
    assert len(masses) == len(watched.token_ids)
    for i, mass_B in enumerate(masses):
        assert len(mass_B) == -(-(len(PROMPT) + i) // PAGE)
        assert mass_B.sum() == pytest.approx(1, abs=1e-4)
    read = np.count_nonzero(masses[-1])
    assert read == len(masses[-1]) if attention == "dense" else read < len(masses[-1])


def test_the_same_evidence_from_a_known_prefix_in_a_crowd_and_after_preemption(tiny_model: Path) -> None:
    cold = readings(load(tiny_model, attention="sparse").generate([PROMPT], WATCHED)[0])
    llm = load(tiny_model, attention="sparse")
    llm.generate([PROMPT], PLAIN)
    [warm] = llm.generate([PROMPT], WATCHED)
    assert warm.stats.num_cached == len(PROMPT) - 1
    crowd = load(tiny_model, attention="sparse").generate(["x" * 40, PROMPT, "y" * 90], WATCHED)[1]
    page_bytes = 2 * 2 * 2 * 16 * 2 * PAGE  # keys and values, layers, heads, head size, bytes of a number, tokens
    small = load(
        tiny_model, attention="sparse", cache_bytes=25 * page_bytes, index="exact", prefix_cache=False, step_ms=60_000
    )
    squeezed = small.generate(["z" * 150, PROMPT], replace(WATCHED, max_tokens=24))[1]
    assert squeezed.stats.num_preempted
    for other in (warm, crowd, squeezed):
        for one, mass_B in zip(readings(other), cold, strict=True):
            np.testing.assert_allclose(one, mass_B, atol=2e-3)


def test_drafts_change_no_reading(tiny_model: Path) -> None:
    def answer(speculation: str) -> Completion:
        llm = load(tiny_model, speculation=speculation)
        llm.engine = Engine(llm.engine.runner, llm.tokenizer, llm.config, itertools.count().__next__)
        repetitive = replace(WATCHED, max_tokens=60, repetition_penalty=0.3)
        return llm.generate([[0, 1, 2, 3, 1, 2] * 12], repetitive)[0]

    drafted, plain = answer("auto"), answer("off")
    if not drafted.stats.num_drafted:
        pytest.skip("nothing is drafted where kernels are not invariant")
    assert drafted.token_ids == plain.token_ids and drafted.stats.num_accepted
    for one, mass_B in zip(readings(drafted), readings(plain), strict=True):
        np.testing.assert_allclose(one, mass_B, atol=1e-5)


def test_dropped_blocks_keep_their_places(tiny_model: Path) -> None:
    llm = load(tiny_model, max_context=192, overflow="compact")
    [answer] = llm.generate([PROMPT], WATCHED)
    assert answer.dropped and answer.evidence is not None
    gone = [block for span in answer.dropped for block in range(span.start // PAGE, span.stop // PAGE)]
    assert gone and not any(readings(answer)[-1][block] for block in gone)
    assert readings(answer)[-1].sum() == pytest.approx(1, abs=1e-3)
    assert len(readings(answer)[-1]) == -(-(len(PROMPT) + len(answer.token_ids) - 1) // PAGE)


def test_several_processes_refuse(tiny_model: Path) -> None:
    llm = load(tiny_model, tensor_parallel=2)
    with pytest.raises(InputError, match="evidence: is for a model in one process"):
        llm.generate(["hi"], WATCHED)


FACTS = [
    ("cellar.md", "The access code of the north gate is 7261.", "What is the access code of the north gate?"),
    ("kitchen.md", "The secret ingredient of the soup is cardamom.", "What is the secret ingredient of the soup?"),
    ("meetings.md", "The annual meeting takes place in Reykjavik.", "Where does the annual meeting take place?"),
    ("office.md", "The coffee machine was bought in Turin.", "Where was the coffee machine bought?"),
]
WHO = ["The gardener", "A neighbour", "My uncle", "The old captain", "Our teacher", "The baker", "The librarian"]
DID = ["walked along the river", "read a long letter", "waited for the train", "repaired a chair", "watched the clouds"]
WHEN = ["before the rain came", "until the lamps were lit", "while the children slept", "as the market closed"]


@pytest.mark.parametrize("attention", ["dense", "sparse"])
def test_planted_facts_are_found(default_model_path: Path, attention: str) -> None:
    """Facts among other sentences; whenever the answer is right, its first reference is where the fact is."""
    chance = random.Random(0)
    lines = [[f"{chance.choice(WHO)} {chance.choice(DID)} {chance.choice(WHEN)}.\n" for _ in range(30)] for _ in FACTS]
    places = [8 + 5 * i for i in range(len(FACTS))]
    for own, place, (_, fact, _) in zip(lines, places, FACTS, strict=True):
        own.insert(place - 1, fact + "\n")
    files = [ContextFile(path, Path(path), "".join(own)) for (path, _, _), own in zip(FACTS, lines, strict=True)]
    collection = Collection(tuple(files), ())
    llm = LLM(default_model_path, EngineConfig(attention=attention, sparse=SparseConfig(index_topk_blocks=8)))
    right = 0
    for (path, fact, question), place in zip(FACTS, places, strict=True):
        text = f"{collection.render()}\nUse the files above to answer. {question}"
        prompt = llm.encode_chat([{"role": "user", "content": text}])
        sources = SourceMap.of_files(prompt.ids, llm.tokenizer.token_bytes, collection)
        [answer] = llm.generate([replace(prompt, sources=sources)], SamplingParams(max_tokens=16, evidence=True))
        if fact.split()[-1] not in answer.text:
            continue
        right += 1
        assert answer.evidence is not None
        best = answer.evidence.sentences[0].references[0]
        assert any(s.path == path and s.first_line <= place <= s.last_line for s in best.spans), (question, str(best))
    assert right >= 2, "the model answers some of them"
