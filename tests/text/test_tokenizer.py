from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from openm3.errors import InputError, ModelError
from openm3.text import bpe
from openm3.text.tokenizer import Tokenizer

SAMPLES = {
    "code": "def f(x: int) -> int:\n    return x ** 2 + 0x1F  # twice\n\n\tif x!=3: pass\r\n",
    "chinese": "稀疏注意力只读取它选中的块。２０２４年，一百万个词元！",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ok",
    "combining marks": "e\u0301 n\u0303 नमस्ते เครื่อง \u200d\u200b",
    "digits": "3.14159 2024-01-02 1,000,000 x  123    7\t\t9 ½ ⅷ ٣",
    "white space": " a  b   c\n\n\n   d \t \u00a0\u3000e  ",
    "contractions": "I'm you're HE'LL don't '' it's",
    "special tokens": "a<|im_end|>b <|im_start|>user\n<|endoftext|><repo_name>",
    "empty": "",
}


@pytest.mark.parametrize("text", SAMPLES.values(), ids=SAMPLES.keys())
@pytest.mark.parametrize("parse_special", [False, True])
def test_encode_equals_transformers(tokenizer: Tokenizer, reference: Any, text: str, parse_special: bool) -> None:
    expected = reference.encode(text, split_special_tokens=not parse_special)
    assert tokenizer.encode(text, parse_special=parse_special) == expected
    for skip in (False, True):
        ids = tokenizer.encode(text, parse_special=parse_special)
        assert tokenizer.decode(ids, skip_special=skip) == reference.decode(expected, skip_special_tokens=skip)


@given(text=st.text() | st.binary().map(lambda data: data.decode("utf-8", "replace")))
def test_encode_equals_transformers_on_any_text(tokenizer: Tokenizer, reference: Any, text: str) -> None:
    assert tokenizer.encode(text) == reference.encode(text, split_special_tokens=True)


@given(ids=st.lists(st.integers(0, 49151)), skip=st.booleans())
def test_decode_equals_transformers_on_any_ids(
    tokenizer: Tokenizer, reference: Any, ids: list[int], skip: bool
) -> None:
    assert tokenizer.decode(ids, skip_special=skip) == reference.decode(ids, skip_special_tokens=skip)


# The ids that llama.cpp (llama-cpp-python 0.3.36) gives for the same file.
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("x  123", [104, 256, 33, 34, 35]),
        ("in 2024,  42 cats", [254, 216, 34, 32, 34, 36, 28, 256, 36, 34, 7680]),
        ("a = 3.14\n    7", [81, 446, 216, 35, 30, 33, 36, 2367, 39]),
        ("½ ⅷ ٣ 12", [16738, 216, 173, 223, 132, 216, 164, 113, 216, 33, 34]),
        ("\t\t9", [1656, 41]),
        ("\u200b \u00a0 3", [321, 229, 3351, 250, 216, 35]),
    ],
)
def test_digits_are_cut_as_by_llama_cpp(tokenizer: Tokenizer, text: str, ids: list[int]) -> None:
    assert tokenizer.encode(text) == ids


@given(text=st.text())
def test_decode_undoes_encode_but_for_bytes_that_the_vocabulary_lacks(tokenizer: Tokenizer, text: str) -> None:
    known = {tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)}
    kept = b"".join(byte for byte in (bytes([b]) for b in text.encode()) if byte in known)
    assert tokenizer.decode(tokenizer.encode(text)) == kept.decode("utf-8", "replace")


def test_facts_of_the_default_model(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 49152
    assert (tokenizer.bos_id, tokenizer.bos_token, tokenizer.adds_bos) == (1, "<|im_start|>", False)
    # The file declares 2 alone; 0, <|endoftext|>, ends an answer too.
    assert (tokenizer.eos_ids, tokenizer.eos_token) == ({0, 2}, "<|im_end|>")
    assert tokenizer.special_ids == set(range(17))
    assert tokenizer.chat_template is not None


def test_plain_text_never_becomes_a_control_token(tokenizer: Tokenizer) -> None:
    for name in tokenizer.special_tokens:
        text = f"a {name}{name} b"
        assert tokenizer.special_ids.isdisjoint(tokenizer.encode(text))
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_add_bos(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("hi", add_bos=True) == [1, *tokenizer.encode("hi")]


@pytest.mark.parametrize("bad", [-1, 49152])
def test_an_id_out_of_range_is_named(tokenizer: Tokenizer, bad: int) -> None:
    with pytest.raises(ValueError, match=f"token id {bad} "):
        tokenizer.decode([5, bad])


def test_a_lone_surrogate_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="prompt: character 2 is a lone surrogate"):
        tokenizer.encode("ab\ud800")


@pytest.mark.parametrize(
    ("kind", "text", "pieces"),
    [
        ("gpt-2", "I'm 123 ok  !", ["I", "'m", " 123", " ok", " ", " !"]),
        ("smollm", "I'm 123 ok", ["I", "'m", " ", "1", "2", "3", " ok"]),
        ("llama-bpe", "HE'LL 12345\n\nok", ["HE", "'LL", " ", "123", "45", "\n\n", "ok"]),
        ("qwen2", "HE'LL 123\n\nok", ["HE", "'LL", " ", "1", "2", "3", "\n\n", "ok"]),
        ("default", "a+b 12345", ["a", "+", "b", " ", "123", "45"]),
    ],
)
def test_kinds_of_pre_tokenizer(small_metadata: dict[str, object], kind: str, text: str, pieces: list[str]) -> None:
    small_metadata["tokenizer.ggml.pre"] = kind
    cuts = bpe.build(small_metadata).pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in cuts] == pieces


def test_every_kind_of_pre_tokenizer_keeps_control_tokens_out(small_metadata: dict[str, object]) -> None:
    for kind in bpe.PRE_TOKENIZERS:
        small = Tokenizer.from_gguf(small_metadata | {"tokenizer.ggml.pre": kind})
        assert small.special_ids.isdisjoint(small.encode("<s> x</s><s></s>"))
        assert small.encode("<s>x<s></s>", parse_special=True)[0] == 258
        assert small.adds_bos == (kind == "llama-bpe")


def test_qwen2_normalises_to_nfc(small_metadata: dict[str, object]) -> None:
    small = Tokenizer.from_gguf(small_metadata | {"tokenizer.ggml.pre": "qwen2"})
    assert small.decode(small.encode("e\u0301")) == unicodedata.normalize("NFC", "e\u0301")


def test_user_defined_tokens_are_text(small_metadata: dict[str, object]) -> None:
    small = Tokenizer.from_gguf(small_metadata)
    assert small.encode("<think>he") == [257, 256]
    assert small.decode([257, 256]) == "<think>he"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ggml.model", "llama", "tokenizer.ggml.model is 'llama'; supported: gpt2"),
        ("ggml.model", None, "tokenizer.ggml.model is missing"),
        ("ggml.pre", "tekken", "tokenizer.ggml.pre is 'tekken'; supported: default, gpt-2, llama-bpe"),
        ("ggml.pre", 3, "tokenizer.ggml.pre is 3; str expected"),
        ("ggml.add_space_prefix", True, "tokenizer.ggml.add_space_prefix is true"),
        ("ggml.tokens", None, "tokenizer.ggml.tokens is missing"),
        ("ggml.token_type", [1], "token_type has 1 entries for 261 tokens"),
        ("ggml.merges", ["h q q"], "merges don't fit"),
        ("ggml.merges", ["he llo"], "merges don't fit"),
        ("ggml.eos_token_id", 261, "token 261 is declared bos or eos"),
    ],
)
def test_metadata_that_cannot_be_used(small_metadata: dict[str, object], key: str, value: object, message: str) -> None:
    small_metadata[f"tokenizer.{key}"] = value
    with pytest.raises(ModelError, match=message):
        Tokenizer.from_gguf(small_metadata)


def test_a_token_twice_is_refused(small_metadata: dict[str, Any]) -> None:
    small_metadata["tokenizer.ggml.tokens"][0] = "he"
    with pytest.raises(ModelError, match="the same token twice"):
        Tokenizer.from_gguf(small_metadata)


@pytest.fixture
def folder(small_metadata: dict[str, object], tmp_path: Path) -> Path:
    backend = bpe.build(small_metadata)
    # A saved tokenizer may carry these; a prompt must not be cut or filled.
    backend.enable_truncation(2)
    backend.enable_padding(length=8)
    backend.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def test_a_folder_equals_the_gguf(folder: Path, small_metadata: dict[str, object]) -> None:
    ours, theirs = Tokenizer.from_folder(folder), Tokenizer.from_gguf(small_metadata)
    text = "<s>hello wörld</s> <think>"
    for parse in (False, True):
        assert ours.encode(text, parse_special=parse) == theirs.encode(text, parse_special=parse)
    assert (ours.vocab_size, ours.special_ids) == (261, {258, 259, 260})
    assert [ours.token_bytes(i) for i in range(261)] == [theirs.token_bytes(i) for i in range(261)]
    # Without a configuration nothing is declared.
    assert (ours.bos_id, ours.eos_ids, ours.adds_bos, ours.chat_template) == (None, set(), False, None)
    with pytest.raises(ValueError, match="no bos token"):
        ours.encode("hi", add_bos=True)


def test_the_configuration_of_a_folder(folder: Path) -> None:
    configuration = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": True}
    _write(folder / "tokenizer_config.json", configuration | {"chat_template": "configured"})
    _write(folder / "generation_config.json", {"eos_token_id": [259, 260]})
    _write(folder / "config.json", {"eos_token_id": 257})
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.bos_id, tokenizer.bos_token, tokenizer.adds_bos) == (258, "<s>", True)
    assert (tokenizer.eos_ids, tokenizer.eos_token) == ({257, 259, 260}, "</s>")
    assert tokenizer.chat_template == "configured"

    named = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]
    _write(folder / "tokenizer_config.json", configuration | {"chat_template": named})
    assert Tokenizer.from_folder(folder).chat_template == "d"
    (folder / "chat_template.jinja").write_text("file", encoding="utf-8")
    assert Tokenizer.from_folder(folder).chat_template == "file"


def test_a_post_processor_may_say_that_bos_is_added(folder: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_padding()
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 258)])
    backend.save(str(folder / "tokenizer.json"))
    _write(folder / "tokenizer_config.json", {"bos_token": "<s>"})
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.adds_bos
    assert tokenizer.encode("he") == [256]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "missing"),
        ("tokenizer.json", b'{"version": "1.0"', "not a tokenizer"),
        (
            "tokenizer.json",
            tokenizers.Tokenizer(tokenizers.models.WordLevel()).to_str().encode(),
            "WordLevel",
        ),
        ("tokenizer_config.json", b"{", "not JSON"),
        ("tokenizer_config.json", b"[]", "not a JSON object"),
        ("tokenizer_config.json", b'{"eos_token": "<no>"}', "eos_token '<no>' is not a token"),
        ("tokenizer_config.json", b'{"chat_template": 3}', "chat_template is not a string"),
        ("generation_config.json", b"\xff", "not JSON"),
        ("chat_template.jinja", b"\xff", "not UTF-8"),
    ],
)
def test_a_folder_that_cannot_be_used(folder: Path, name: str, content: bytes | None, message: str) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        Tokenizer.from_folder(folder)
    assert name in str(caught.value)
