"""A byte-level BPE of the `tokenizers` library, built from the vocabulary that a GGUF file carries.

A GGUF names its pre-tokenizer (`tokenizer.ggml.pre`) instead of describing it; `PRE_TOKENIZERS` says what
each name means. The patterns are those of the published tokenizers and of llama.cpp, which reads such files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from openm3.errors import ModelError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PreTokenizer:
    """How text is cut before the merges, which never cross a cut.

    Args:
        patterns: regular expressions applied in turn; each cuts the pieces of the one before at its matches.
        nfc: the text is first brought to Unicode's NFC.
        ignore_merges: a piece that is a token as it stands becomes that token, whatever the merges say.
        adds_bos: prompts begin with bos where the file doesn't say (`tokenizer.ggml.add_bos_token`).
    """

    patterns: tuple[str, ...]
    nfc: bool = False
    ignore_merges: bool = False
    adds_bos: bool = False


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# One pattern but for the longest run of digits, which is its parameter.
_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "default": PreTokenizer(patterns=(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    "gpt-2": PreTokenizer(patterns=(_GPT2,)),
    "llama-bpe": PreTokenizer(patterns=(_GPT4 % r"\p{N}{1,3}",), ignore_merges=True, adds_bos=True),
    "qwen2": PreTokenizer(patterns=(_GPT4 % r"\p{N}",), nfc=True),
    "smollm": PreTokenizer(patterns=(r"\p{N}", _GPT2)),
}

# Values of `tokenizer.ggml.token_type`; the tokens of every other type are plain vocabulary.
_CONTROL = 3
_USER_DEFINED = 4


def entry(metadata: Mapping[str, object], key: str, kind: type[T]) -> T | None:
    """The value under `tokenizer.<key>`, None where there is none; one of another type is a `ModelError`."""
    value = metadata.get(f"tokenizer.{key}")
    if value is not None and type(value) is not kind:
        raise ModelError(f"tokenizer.{key} is {value!r:.60}; {kind.__name__} expected")
    return value


def pre_tokenizer(metadata: Mapping[str, object]) -> PreTokenizer:
    """The pre-tokenizer that the file names; a kind of tokenizer that isn't supported is a `ModelError`."""
    for key, supported in (("ggml.model", ["gpt2"]), ("ggml.pre", list(PRE_TOKENIZERS))):
        value = entry(metadata, key, str)
        if value not in supported:
            stated = "is missing" if value is None else f"is {value!r}"
            raise ModelError(f"tokenizer.{key} {stated}; supported: {', '.join(supported)}")
    if entry(metadata, "ggml.add_space_prefix", bool):
        raise ModelError("tokenizer.ggml.add_space_prefix is true; supported: false")
    return PRE_TOKENIZERS[str(metadata["tokenizer.ggml.pre"])]


def build(metadata: Mapping[str, object]) -> tokenizers.Tokenizer:
    """The tokenizer in a GGUF file's metadata; what is missing, wrong or unsupported is a `ModelError`."""
    pre = pre_tokenizer(metadata)
    tokens = _required(metadata, "ggml.tokens")
    types = _required(metadata, "ggml.token_type")
    merges = _required(metadata, "ggml.merges")
    if len(types) != len(tokens):
        raise ModelError(f"tokenizer.ggml.token_type has {len(types)} entries for {len(tokens)} tokens")
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise ModelError("tokenizer.ggml.tokens holds the same token twice")

    try:
        pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
        backend = tokenizers.Tokenizer(models.BPE(vocab, pairs, ignore_merges=pre.ignore_merges))
    except Exception as error:  # the library raises no narrower type
        raise ModelError(f"tokenizer.ggml.merges don't fit tokenizer.ggml.tokens: {error}") from error
    if pre.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(
        [
            AddedToken(token, special=kind == _CONTROL, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind in (_CONTROL, _USER_DEFINED)
        ]
    )
    return backend


def _required(metadata: Mapping[str, object], key: str) -> list[Any]:
    value = entry(metadata, key, list)
    if not value:
        raise ModelError(f"tokenizer.{key} is missing or empty")
    return value
