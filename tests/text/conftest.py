"""What the tests of `openm3.text` share: the default model's tokenizer, its reference, a very small one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from openm3.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def metadata(default_model_path: Path) -> dict[str, object]:
    """The metadata of the default model's GGUF file."""
    return {key: field.contents() for key, field in gguf.GGUFReader(default_model_path).fields.items()}


@pytest.fixture(scope="session")
def tokenizer(metadata: dict[str, object]) -> Tokenizer:
    return Tokenizer.from_gguf(metadata)


@pytest.fixture(scope="session")
def reference(default_model_path: Path) -> Any:
    """The tokenizer of `transformers` from the same file.

    Its GGUF conversion leaves out the cut around every digit that SmolLM2's published `tokenizer.json` makes,
    so a run of spaces before a number comes out otherwise ("x  1": two single spaces, not a double one).
    The published pre-tokenizer is put back here; `test_digits_are_cut_as_by_llama_cpp` is the witness.
    """
    reference = AutoTokenizer.from_pretrained(default_model_path.parent, gguf_file=default_model_path.name)
    reference.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return reference


@pytest.fixture
def small_metadata() -> dict[str, object]:
    """A GGUF vocabulary of all bytes, one merge, one user-defined and three control tokens."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "<think>", "<s>", "</s>", "<s></s>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 257 + [4, 3, 3, 3],
        "tokenizer.ggml.merges": ["h e"],
        "tokenizer.ggml.bos_token_id": 258,
        "tokenizer.ggml.eos_token_id": 259,
    }
