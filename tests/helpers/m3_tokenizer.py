"""A tokenizer with M3's vocabulary size and special ids; its plain tokens are bytes, English words and fillers."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from openm3.text import m3

_NUM_PLAIN = 200_000
# Each becomes one token by its merges, so that texts aren't bytes alone and a marker can be cut inside a word.
_WORDS = ("the", "think", "answer", "tool", "call", "invoke", "item", "image", "seconds", "minimax")


def m3_tokenizer() -> Tokenizer:
    """All ids from 0 to 200,063 are there; the names of those that aren't published are `]<]unused N[>[`.

    The namespace marker of tool calls is no token, so it arrives in pieces.
    """
    vocab = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    for word in _WORDS:
        left = word[0]
        for right in word[1:]:
            if left + right not in vocab:
                vocab[left + right] = len(vocab)
                merges.append((left, right))
            left += right
    vocab |= {f"Ġ{i:06x}": i for i in range(len(vocab), _NUM_PLAIN)}
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {i: name for name, i in m3.TOKEN_IDS.items()}
    specials = [names.get(i, f"]<]unused {i}[>[") for i in range(_NUM_PLAIN, m3.VOCAB_SIZE)]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    return tokenizer


def write_m3_tokenizer(folder: Path) -> Path:
    """Writes `tokenizer.json` and `tokenizer_config.json`, and no chat template, to an existing folder."""
    m3_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"bos_token": m3.TEXT_BEGIN, "eos_token": m3.END, "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
