"""The tokenizer of a model: text to token ids and back, from GGUF metadata or a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import tokenizers
from tokenizers import decoders, models

from openm3.errors import InputError, ModelError
from openm3.text import bpe, m3

# Tokens by which published models end an answer. Files often declare only one of those that their model uses.
_ENDS = {"<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", m3.END}


class Tokenizer:
    """A byte-level BPE. Immutable once built: any number of threads may use one.

    Attributes:
        vocab_size: one more than the largest token id. The model may have more rows; those are no tokens.
        bos_id: the token that begins a text, where the model has one.
        adds_bos: whether the model expects `bos_id` before a plain prompt (a chat template writes its own).
        eos_ids: the tokens that end an answer: those that the files declare, and every control token that is
            known to end answers by its name (`<|im_end|>`, `<|endoftext|>`, ...).
        bos_token, eos_token: the text of bos and of the first declared eos, for chat templates; "" if none.
        chat_template: the Jinja source, where the model has one.
        special_ids: the control tokens. They come from templates and from the model, never from plain text.
        special_tokens: the text of each control token.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos_id: int | None,
        eos_ids: Iterable[int],
        adds_bos: bool,
        chat_template: str | None,
    ) -> None:
        """Use `from_gguf` or `from_folder`; `eos_ids` are the declared ones, the main one first."""
        # Two instances, as the library has a switch per object for control tokens and none per call.
        self._parsing = backend
        self._plain = tokenizers.Tokenizer.from_str(backend.to_str())
        self._plain.encode_special_tokens = True

        added = backend.get_added_tokens_decoder()
        ids = backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(ids.values()) + 1
        self._bytes = [b""] * self.vocab_size
        for token, i in ids.items():
            self._bytes[i] = token.encode() if i in added else _token_bytes(token)

        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self.special_tokens = frozenset(added[i].content for i in self.special_ids)
        declared = list(eos_ids)
        for i in declared if bos_id is None else [bos_id, *declared]:
            if not 0 <= i < self.vocab_size:
                raise ModelError(f"token {i} is declared bos or eos, but there are only {self.vocab_size} tokens")
        self.bos_id = bos_id
        self.adds_bos = adds_bos and bos_id is not None
        self.eos_ids = frozenset(declared) | {i for i in self.special_ids if added[i].content in _ENDS}
        self.bos_token = "" if bos_id is None else self.decode([bos_id], skip_special=False)
        self.eos_token = self.decode(declared[:1], skip_special=False)
        self.chat_template = chat_template

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object]) -> Self:
        """From the metadata of a GGUF file; one that isn't supported is a `ModelError` naming the key."""
        stated_bos = bpe.entry(metadata, "ggml.add_bos_token", bool)
        ends = (bpe.entry(metadata, f"ggml.{name}_token_id", int) for name in ("eos", "eot", "eom"))
        return cls(
            bpe.build(metadata),
            bos_id=bpe.entry(metadata, "ggml.bos_token_id", int),
            eos_ids=[i for i in ends if i is not None],
            adds_bos=bpe.pre_tokenizer(metadata).adds_bos if stated_bos is None else stated_bos,
            chat_template=bpe.entry(metadata, "chat_template", str),
        )

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """From a folder in the Hugging Face layout: `tokenizer.json`, and where present its companions.

        The chat template is `chat_template.jinja`, else that of `tokenizer_config.json`, which also has bos
        and eos; else, where the vocabulary has M3's markers, ours. `generation_config.json` and `config.json`
        may add ends. A file that is missing, corrupt or
        not supported is a `ModelError` naming it.
        """
        backend = _read_backend(folder / "tokenizer.json")
        config_path = folder / "tokenizer_config.json"
        config = _read_json(config_path)

        def token_id(key: str) -> int | None:
            token = config.get(key)
            text = token.get("content") if isinstance(token, dict) else token
            if text is None:
                return None
            found = backend.token_to_id(text) if isinstance(text, str) else None
            if found is None:
                raise ModelError(f"{config_path}: {key} {text!r} is not a token of tokenizer.json")
            return found

        bos_id, eos_id = token_id("bos_token"), token_id("eos_token")
        ends = [] if eos_id is None else [eos_id]
        for name in ("generation_config.json", "config.json"):
            more = _read_json(folder / name).get("eos_token_id")
            ends += more if isinstance(more, list) else [] if more is None else [more]
        if not all(type(i) is int for i in ends):
            raise ModelError(f"{folder}: eos_token_id must be an integer or a list of integers")
        chat_template = _read_chat_template(folder / "chat_template.jinja", config.get("chat_template"))
        if chat_template is None and all(backend.token_to_id(name) for name in (m3.MESSAGE_BEGIN, m3.THINK_END)):
            chat_template = m3.chat_template()
        # Newer folders leave it to the post-processor, which shows what it adds around nothing.
        starts_with_bos = bos_id is not None and backend.encode("").ids[:1] == [bos_id]
        return cls(
            backend,
            bos_id=bos_id,
            eos_ids=ends,
            adds_bos=bool(config.get("add_bos_token", starts_with_bos)),
            chat_template=chat_template,
        )

    def encode(self, text: str, *, parse_special: bool = False, add_bos: bool = False) -> list[int]:
        """The tokens of `text`.

        With `parse_special` the names of control tokens become those tokens; without it they are ordinary
        characters, which is the way to read text from outside. A byte that the vocabulary lacks is dropped,
        as by the published tokenizers (SmolLM2 lacks a few ASCII control characters).
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError("prompt", f"character {error.start} is a lone surrogate, not Unicode text") from None
        if add_bos and self.bos_id is None:
            raise ValueError("add_bos: this tokenizer has no bos token")
        backend = self._parsing if parse_special else self._plain
        # A batch of one: the only call that skips the offsets, at twice the speed.
        (encoding,) = backend.encode_batch_fast([text], add_special_tokens=False)
        return [self.bos_id, *encoding.ids] if add_bos and self.bos_id is not None else encoding.ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of `ids`; bytes that aren't UTF-8 become U+FFFD. An id out of range is a `ValueError`."""
        skipped = self.special_ids if skip_special else frozenset()
        return b"".join(self.token_bytes(i) for i in ids if i not in skipped).decode("utf-8", "replace")

    def token_id(self, text: str) -> int | None:
        """The token that is written so, where the vocabulary has one."""
        return self._parsing.token_to_id(text)

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of one token, often a part of a character. An id out of range is a `ValueError`."""
        if not 0 <= token_id < self.vocab_size:
            raise ValueError(f"token id {token_id} is not in 0..{self.vocab_size - 1}")
        return self._bytes[token_id]


def _byte_alphabet() -> dict[str, int]:
    """The character that byte-level BPE writes for each byte: visible Latin-1 as is, the rest from U+0100."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = sorted(set(range(0x100)) - set(visible))
    return {chr(b): b for b in visible} | {chr(0x100 + i): b for i, b in enumerate(hidden)}


_BYTE_OF = _byte_alphabet()


def _token_bytes(token: str) -> bytes:
    try:
        return bytes([_BYTE_OF[char] for char in token])
    except KeyError:  # padding such as "[unused 7]" is no byte-level text
        return token.encode()


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise ModelError(f"{path}: missing; a model folder needs its tokenizer")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower type
        raise ModelError(f"{path}: not a tokenizer: {error}") from error
    if not isinstance(backend.model, models.BPE) or not isinstance(backend.decoder, decoders.ByteLevel):
        kind = f"{type(backend.model).__name__} with decoder {type(backend.decoder).__name__}"
        raise ModelError(f"{path}: {kind} is not supported; byte-level BPE is")
    # A saved file may carry the limits of its training run.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _read_json(path: Path) -> dict[str, Any]:
    """The object in `path`; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: not a JSON object")
    return value


def _read_chat_template(path: Path, configured: Any) -> str | None:
    """The file where there is one, else the configuration's: a string, or the "default" of a list."""
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ModelError(f"{path}: not UTF-8: {error}") from error
    if isinstance(configured, list):
        named = {item.get("name"): item.get("template") for item in configured if isinstance(item, dict)}
        configured = named.get("default")
    if not isinstance(configured, str | None):
        raise ModelError(f"{path.with_name('tokenizer_config.json')}: chat_template is not a string")
    return configured
