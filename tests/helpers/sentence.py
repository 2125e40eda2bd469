"""Small random sentence models in the layout of sentence-transformers, with what transformers makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

_SIZES: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 42,
}  # fmt: skip


def write_sentence_model(folder: Path, *, kind: str = "bert", pooling: str = "mean_tokens", dense: int = 0) -> Any:
    """Writes a model whose words are the characters a to z, and returns the encoder of transformers.

    Args:
        dense: a last layer of so many numbers, with tanh.
    """
    torch.manual_seed(0)
    config = (BertConfig if kind == "bert" else RobertaConfig)(**_SIZES, initializer_range=0.3)
    encoder = (BertModel if kind == "bert" else RobertaModel)(config).eval()
    encoder.save_pretrained(folder)
    _tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24}))
    steps = [("", "Transformer"), ("1_Pooling", "Pooling")]
    (folder / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens", "max_tokens")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))
    if dense:
        (folder / "2_Dense").mkdir()
        about = {"in_features": 32, "out_features": dense, "bias": True}
        about["activation_function"] = "torch.nn.modules.activation.Tanh"
        (folder / "2_Dense" / "config.json").write_text(json.dumps(about))
        weights = {"linear.weight": torch.randn(dense, 32), "linear.bias": torch.randn(dense)}
        save_file(weights, folder / "2_Dense" / "model.safetensors")
        steps.append(("2_Dense", "Dense"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return encoder


def _tokenizer() -> Tokenizer:
    vocab = {"[CLS]": 2, "[SEP]": 3, "[UNK]": 4, **{chr(97 + i): 5 + i for i in range(26)}}
    tokenizer = Tokenizer(models.WordLevel(vocab, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_truncation(5)  # of the training run: not ours to keep
    return tokenizer
