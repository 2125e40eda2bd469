"""Sentence models against transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import BertModel

from helpers.sentence import write_sentence_model
from openm3 import hub
from openm3.errors import ModelError
from openm3.model.sentence import SentenceModel

TEXTS = ["abc", "", "the quick brown fox jumps", "z" * 22]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("pooling", ["mean_tokens", "max_tokens", "cls_token"])
@torch.inference_mode()
def test_vectors_are_those_of_transformers(tmp_path: Path, kind: str, pooling: str) -> None:
    encoder = write_sentence_model(tmp_path, kind=kind, pooling=pooling)
    model = SentenceModel(tmp_path)
    sequences = [model.encode(text[:20]) for text in TEXTS]
    together = model.embed(sequences)
    for tokens, vector in zip(sequences, together, strict=True):
        states_TC = encoder(torch.tensor([tokens])).last_hidden_state[0]
        pooled = {"mean_tokens": states_TC.mean(0), "max_tokens": states_TC.amax(0), "cls_token": states_TC[0]}
        torch.testing.assert_close(vector, pooled[pooling], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.embed(sequences[1:2])[0], together[1], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_dense_layer_behind_the_pooling(tmp_path: Path) -> None:
    write_sentence_model(tmp_path / "plain")
    write_sentence_model(tmp_path / "dense", dense=7)
    plain, dense = SentenceModel(tmp_path / "plain"), SentenceModel(tmp_path / "dense")
    assert (plain.dimensions, dense.dimensions) == (32, 7)
    tokens = [plain.encode("abc")]
    from safetensors.torch import load_file

    weights = load_file(tmp_path / "dense" / "2_Dense" / "model.safetensors")
    expected = torch.tanh(plain.embed(tokens) @ weights["linear.weight"].T + weights["linear.bias"])
    torch.testing.assert_close(dense.embed(tokens), expected, rtol=1e-4, atol=1e-5)


def test_texts_are_whole_unless_told_otherwise(tmp_path: Path) -> None:
    write_sentence_model(tmp_path)
    model = SentenceModel(tmp_path)
    assert model.max_tokens == 24
    assert len(model.encode("a" * 30)) == 32
    cut = model.encode("a" * 30, truncate=True)
    assert (len(cut), cut[0], cut[-1]) == (24, 2, 3)
    assert model.encode("[CLS]")[1] == 4, "names of control tokens are ordinary characters"


def test_the_default_sentence_model_is_that_of_transformers_and_means_something() -> None:
    folder = hub.pull("embeddings")
    model, reference = SentenceModel(folder), BertModel.from_pretrained(folder).eval()
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose in March."]
    vectors = model.embed([model.encode(text) for text in texts])
    with torch.inference_mode():
        states_TC = reference(torch.tensor([model.encode(texts[0])])).last_hidden_state[0]
    expected = torch.nn.functional.normalize(states_TC.mean(0), dim=-1)
    torch.testing.assert_close(vectors[0], expected, rtol=1e-4, atol=1e-5)
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.6 and alike[0, 2] < 0.1


def _changed(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_cant_be_used_is_told_by_file_and_name(tmp_path: Path) -> None:
    write_sentence_model(tmp_path)
    _changed(tmp_path / "config.json", hidden_size=36)
    with pytest.raises(ModelError, match=r"model.safetensors: tensor embeddings.LayerNorm.bias has shape \(32,\)"):
        SentenceModel(tmp_path)
    _changed(tmp_path / "config.json", hidden_size=32, num_hidden_layers=3)
    with pytest.raises(ModelError, match="tensor encoder.layer.2.attention.output.LayerNorm.bias is missing"):
        SentenceModel(tmp_path)
    _changed(tmp_path / "config.json", num_hidden_layers=2, model_type="t5")
    with pytest.raises(ModelError, match="model_type 't5' is no encoder"):
        SentenceModel(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "Transformer", "path": ""}, {"type": "WordWeights"}]))
    with pytest.raises(ModelError, match="begins with"):
        SentenceModel(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "Transformer", "path": "../x"}, {"type": "Pooling"}]))
    with pytest.raises(ModelError, match="lies outside"):
        SentenceModel(tmp_path)
