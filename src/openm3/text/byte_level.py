"""A tokenizer without a corpus, for models that nobody has trained: bytes, and M3's special tokens."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from openm3.text import m3

# A vocabulary of every byte and M3's special tokens, and nothing else.
SMALLEST_VOCAB = 256 + len(m3.TOKEN_IDS)


def byte_tokenizer(vocab_size: int) -> Tokenizer:
    """A byte-level BPE without merges: every byte is a token, and every id below `vocab_size` has one.

    M3's special tokens have the published ids where the vocabulary is the published one; in a smaller one they are its
    last ids. What is left between is filled with tokens that no text is encoded to.

    Raises:
        ValueError: less than `SMALLEST_VOCAB`, or more than M3's.
    """
    if not SMALLEST_VOCAB <= vocab_size <= m3.VOCAB_SIZE:
        raise ValueError(f"vocab_size: must be from {SMALLEST_VOCAB} to {m3.VOCAB_SIZE}, got {vocab_size}")
    if vocab_size == m3.VOCAB_SIZE:
        num_plain, names = min(m3.TOKEN_IDS.values()), {i: name for name, i in m3.TOKEN_IDS.items()}
    else:
        num_plain = vocab_size - len(m3.TOKEN_IDS)
        names = dict(enumerate(m3.TOKEN_IDS, start=num_plain))
    vocab = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab |= {f"Ġ{i:06x}": i for i in range(len(vocab), num_plain)}  # Ġ is the space of byte-level BPE
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = [names.get(i, f"]<]unused {i}[>[") for i in range(num_plain, vocab_size)]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    return tokenizer


def write_byte_tokenizer(folder: Path, vocab_size: int) -> None:
    """Writes `byte_tokenizer` and its settings to a model's folder; the chat template is ours, which needs no file."""
    byte_tokenizer(vocab_size).save(str(folder / "tokenizer.json"))
    settings = {"bos_token": m3.TEXT_BEGIN, "eos_token": m3.END, "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
