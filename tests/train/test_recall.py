"""Block recall and mass recall, on numbers that can be done by hand and on a model that can be read in full."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from openm3.config import EngineConfig, SparseConfig
from openm3.engine.llm import LLM
from openm3.train.reader import Reader
from openm3.train.recall import Recall, recall_of


def test_the_figures_of_one_query_by_hand() -> None:
    mass = torch.tensor([[[0.4, 0.3, 0.2, 0.1]]])
    read = torch.tensor([[[0.8, 0.0, 0.0, 0.2]]])  # blocks 0 and 3; best are 0 and 1
    torch.testing.assert_close(recall_of(read, mass)[:, 0], torch.tensor([0.5, 0.4 / 0.7, 0.5 / 0.7, 0.5]))
    best = torch.tensor([[[0.57, 0.43, 0.0, 0.0]]])
    torch.testing.assert_close(recall_of(best, mass)[:, 0], torch.tensor([1.0, 1.0, 1.0, 0.7]))


@pytest.fixture(scope="module")
def ids() -> list[int]:
    return torch.randint(0, 200, (400,), generator=torch.Generator().manual_seed(0)).tolist()


def reader(model: Path, blocks: int, attention: str = "sparse") -> Reader:
    sparse = SparseConfig(index_block_size=16, index_topk_blocks=blocks)
    config = EngineConfig(
        attention=attention, sparse=sparse, dtype="float32", prefill_chunk=128, max_batch_tokens=256, max_context=512
    )
    return Reader(LLM(model, config))


def test_more_blocks_hold_more_and_all_of_them_everything(tiny_model: Path, ids: list[int]) -> None:
    places = range(200, 399, 20)
    kept = []
    for blocks in (2, 6, 25):
        recall = Recall(places)
        reader(tiny_model, blocks).nll(ids, range(len(ids) - 1), recall)
        layers = recall.layers()
        assert len(layers) == 2
        for layer in layers:
            assert 0 < layer.block_recall <= 1.0 and layer.mass_recall <= layer.mass_kept <= 1.0 + 1e-5
        kept.append([layer.chosen_mass for layer in layers])
    assert all(few < more for few, more in zip(kept[0], kept[1], strict=True))
    torch.testing.assert_close(kept[2], [1.0, 1.0])


def test_watching_changes_nothing_and_dense_attention_recalls_all(tiny_model: Path, ids: list[int]) -> None:
    recall = Recall([100, 300])
    one = reader(tiny_model, 3)
    torch.testing.assert_close(one.nll(ids, range(399), recall), one.nll(ids, range(399)), rtol=0, atol=0)
    assert Recall([10_000]).layers() == []
    whole = Recall([300])
    reader(tiny_model, 3, "dense").nll(ids, range(399), whole)
    for layer in whole.layers():
        assert (layer.block_recall, layer.mass_kept) == (1, 1)
