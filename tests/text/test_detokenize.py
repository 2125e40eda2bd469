from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openm3.errors import InputError
from openm3.text.detokenize import Detokenizer, StopStrings
from openm3.text.tokenizer import Tokenizer


def _stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.push(i) for i in ids), detokenizer.finish()]


@given(ids=st.lists(st.integers(0, 49151)))
def test_pushes_and_finish_equal_decode_on_any_ids(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert "".join(_stream(tokenizer, ids)) == tokenizer.decode(ids)


@given(text=st.text())
def test_pushes_and_finish_equal_decode_on_any_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert "".join(_stream(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_character_is_never_split(tokenizer: Tokenizer) -> None:
    text = "naïve 稀疏 👩‍👧 ok"
    pieces = _stream(tokenizer, tokenizer.encode(text))
    assert "".join(pieces) == text
    assert "" in pieces[:-1]  # some tokens do end within a character
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_unfinished_character_becomes_a_replacement_at_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("稀")
    assert "".join(_stream(tokenizer, ids[:-1])) == "\ufffd"


def test_control_tokens_are_silent_even_within_a_character(tokenizer: Tokenizer) -> None:
    first, *rest = tokenizer.encode("稀")
    assert "".join(_stream(tokenizer, [1, first, 2, *rest])) == "稀"


def test_an_id_out_of_range_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="token id 49152"):
        Detokenizer(tokenizer).push(49152)


def _cut(text: str, stops: list[str]) -> tuple[str, str | None]:
    """What `StopStrings` must do, found by looking at the whole text."""
    ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not ends:
        return text, None
    end, _, stop = min(ends)
    return text[: end - len(stop)], stop


LETTERS = st.text(alphabet="ab", max_size=6)


@given(pieces=st.lists(LETTERS), stops=st.lists(LETTERS.filter(bool), max_size=3))
@example(pieces=["a", "aab"], stops=["aab"])
@example(pieces=["xab", "c"], stops=["abc", "b"])
@example(pieces=["abc"], stops=["c", "bc"])
def test_the_pieces_make_no_difference(pieces: list[str], stops: list[str]) -> None:
    watcher = StopStrings(stops)
    emitted, hit = "", None
    for piece in pieces:
        text, hit = watcher.push(piece)
        emitted += text
    assert (emitted + watcher.finish(), hit) == _cut("".join(pieces), stops)


def test_only_what_could_begin_a_stop_string_is_held_back() -> None:
    watcher = StopStrings(["\n\nUser:"])
    assert watcher.push("hello\n") == ("hello", None)
    assert watcher.push("world\n\nUse") == ("\nworld", None)
    assert watcher.push("d") == ("\n\nUsed", None)
    assert watcher.push(" up\n\nUser: more") == (" up", "\n\nUser:")
    assert watcher.push("ignored") == ("", "\n\nUser:")
    assert watcher.finish() == ""


def test_a_long_stop_string_costs_no_more_per_character() -> None:
    # With work in proportion to the stop string or to what is held back this would take hours.
    watcher = StopStrings(["a" * 1_000_000])
    assert all(watcher.push("aaaa") == ("", None) for _ in range(249_999))
    emitted, hit = watcher.push("b")
    assert (len(emitted), hit) == (999_997, None)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InputError, match="stop: an empty stop string"):
        StopStrings(["ok", ""])


def test_control_tokens_can_be_shown(tokenizer: Tokenizer) -> None:
    shown, hidden = sorted(tokenizer.special_ids)[:2]
    detokenizer = Detokenizer(tokenizer, {shown})
    assert detokenizer.push(shown) == tokenizer.decode([shown], skip_special=False)
    assert detokenizer.push(hidden) == ""
