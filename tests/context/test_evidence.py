"""From what tokens read to references, on masses that are made up."""

from __future__ import annotations

import numpy as np
import pytest

from openm3.context.evidence import Evidence, Observed, lift
from openm3.context.importance import Masses
from openm3.context.sources import Passage, SourceMap

BLOCK = 8
FILE = "".join(f"line {i:02}\n" for i in range(1, 11))  # 8 bytes a line: line i is block i - 1


def observe(answer: str, masses: list[Masses], file: Passage | None = None) -> Evidence:
    """The evidence of an answer whose tokens are bytes; each byte read the masses of its place."""
    ids = list(FILE.encode())
    observed = Observed(SourceMap(ids, lambda token: bytes([token]), [file or Passage(FILE, "a.txt")]), BLOCK)
    for mass_B in masses:
        observed.add(mass_B)
    return observed.evidence(list(answer.encode()))


def usual(**more: float) -> Masses:
    """Most to the first and the last block, a little everywhere, and more to some: `b3=0.2`."""
    mass_B = np.full(10, 0.01, np.float32)
    mass_B[0], mass_B[-1] = 0.5, 0.4
    for name, mass in more.items():
        mass_B[int(name[1:])] += mass
    return mass_B / mass_B.sum()


def test_each_sentence_has_what_stands_out_in_it() -> None:
    answer = "One. Two!\nThree"
    masses = [usual()] * 2 + [usual(b3=0.2)] + [usual()] * 4 + [usual(b6=0.2)] + [usual()] * 7
    evidence = observe(answer, masses)
    assert [(s.text, s.start, s.stop) for s in evidence.sentences] == [
        ("One.", 0, 5),
        ("Two!", 5, 10),
        ("Three", 10, 15),
    ]
    first, second, third = (sentence.references for sentence in evidence.sentences)
    assert [str(each) for each in first] == ["a.txt:4-4"]
    assert (first[0].start, first[0].stop, first[0].text) == (24, 32, "line 04\n")
    assert first[0].weight == pytest.approx(1)
    assert first[0].mass == pytest.approx(sum(m[3] for m in masses[:5]) / 5)
    assert [str(each) for each in second] == ["a.txt:7-7"]
    assert third == ()
    assert [each.start for each in evidence.references()] == [24, 48]


def test_a_block_stands_out_among_thousands() -> None:
    chance = np.random.default_rng(0)
    ids = list(b"12345678" * 3000)
    observed = Observed(SourceMap(ids, lambda token: bytes([token])), BLOCK)
    for i in range(8):
        mass_B = chance.exponential(1, 3000).astype(np.float32) ** 2
        mass_B[1234] += 300 * (i == 3)
        observed.add(mass_B / mass_B.sum())
    [sentence] = observed.evidence(list(b"So it is")).sentences
    [reference] = sentence.references
    assert reference.start == 1234 * BLOCK


def test_what_is_always_read_is_no_reference() -> None:
    evidence = observe("Always.", [usual(b5=0.5)] * 7)
    assert [sentence.references for sentence in evidence.sentences] == [()]


def test_the_beginning_and_the_end_of_the_prompt_are_no_references() -> None:
    masses = [usual()] * 3 + [usual(b0=3, b8=3, b9=3, b4=0.5)] + [usual()] * 3
    message = Passage(FILE, message=0)
    [sentence] = observe("Ending.", masses, message).sentences
    assert [str(each) for each in sentence.references] == ["message 0:5-5"]
    in_file = Passage(FILE.removesuffix("\nline 10\n"), "a.txt")
    [sentence] = observe("Ending.", masses, in_file).sentences
    assert [str(each) for each in sentence.references] == ["a.txt:5-5"], "block 8 ends behind the file"


def test_answers_of_a_few_tokens_have_the_mass_itself() -> None:
    [sentence] = observe("42", [usual(b2=0.3), usual(b2=0.3)], Passage(FILE, message=0)).sentences
    assert str(sentence.references[0]) == "message 0:3-3"


def test_lift_is_the_positive_part_of_the_relative_entropy() -> None:
    mass_TB = np.random.default_rng(0).dirichlet(np.ones(6), 9).astype(np.float32)
    expected = np.zeros_like(mass_TB)
    for t in range(9):
        for b in range(1, 4):
            usual_share = sorted(mass_TB[:, b])[4]
            expected[t, b] = max(0, mass_TB[t, b] * np.log((mass_TB[t, b] + 1e-3) / (usual_share + 1e-3)))
    np.testing.assert_allclose(lift(mass_TB, range(1, 4)), expected, atol=1e-6)


def test_characters_of_several_tokens_and_control_tokens() -> None:
    ids = list(FILE.encode())
    observed = Observed(SourceMap(ids, lambda token: bytes([token]), [Passage(FILE, "a.txt")]), BLOCK, {0})
    answer = [*"Zoë. ☃".encode(), 0]
    for _ in answer:
        observed.add(usual())
    evidence = observed.evidence(answer)
    assert [(s.text, s.start, s.stop) for s in evidence.sentences] == [("Zoë.", 0, 6), ("☃", 6, 9)]


def test_nothing_generated() -> None:
    assert observe("", []).sentences == ()
