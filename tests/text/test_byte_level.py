from __future__ import annotations

from pathlib import Path

import pytest

from openm3.text import m3
from openm3.text.byte_level import SMALLEST_VOCAB, byte_tokenizer, write_byte_tokenizer
from openm3.text.tokenizer import Tokenizer


@pytest.mark.parametrize("vocab_size", [SMALLEST_VOCAB, 1000])
def test_bytes_and_m3s_tokens(tmp_path: Path, vocab_size: int) -> None:
    write_byte_tokenizer(tmp_path, vocab_size)
    tokenizer = Tokenizer.from_folder(tmp_path)
    text = "héllo\n\0 ]~b]"
    assert [tokenizer.token_bytes(i)[0] for i in tokenizer.encode(text)] == list(text.encode())
    assert tokenizer.vocab_size == vocab_size
    assert tokenizer.special_tokens == set(m3.TOKEN_IDS)
    assert min(tokenizer.special_ids) == vocab_size - len(m3.TOKEN_IDS)
    assert tokenizer.eos_token == m3.END
    assert tokenizer.chat_template == m3.chat_template()
    assert all(tokenizer.token_bytes(i) for i in range(vocab_size)), "whatever a random model says has a text"


def test_the_published_vocabulary_has_the_published_ids() -> None:
    tokenizer = byte_tokenizer(m3.VOCAB_SIZE)
    assert tokenizer.get_vocab_size() == m3.VOCAB_SIZE
    assert {name: tokenizer.token_to_id(name) for name in m3.TOKEN_IDS} == m3.TOKEN_IDS


@pytest.mark.parametrize("vocab_size", [SMALLEST_VOCAB - 1, m3.VOCAB_SIZE + 1])
def test_a_vocabulary_that_is_too_small_or_too_large(vocab_size: int) -> None:
    with pytest.raises(ValueError, match="vocab_size: must be from 273 to 200064"):
        byte_tokenizer(vocab_size)
