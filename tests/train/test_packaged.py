"""The default model's index branch, as it comes with the package."""

from __future__ import annotations

from openm3.model.branch import packaged
from openm3.model.sidecar import Sidecar
from openm3.train.align import AlignConfig

MOST_BYTES = 10_000_000


def test_it_is_small_and_made_by_the_defaults() -> None:
    sidecar = Sidecar.read(packaged())
    assert sum(file.stat().st_size for file in packaged().iterdir()) <= MOST_BYTES
    options, defaults = dict(sidecar.made["options"]), AlignConfig()
    for name in ("num_steps", "window", "rows", "lr", "target", "seed"):
        assert options[name] == getattr(defaults, name)
    assert sidecar.made["tokens"] == defaults.num_steps * defaults.window


def test_it_scans_at_most_half_of_what_own_keys_would() -> None:
    index = Sidecar.read(packaged()).index
    layers, own = len(index.sparse_attention_freq), len(index.own_key_layers)
    assert sum(index.sparse_attention_freq) + own == layers  # none reads everything
    branch_read = index.index_n_key_heads * index.index_head_dim
    branch_products = index.index_n_heads * index.index_head_dim
    assert (layers - own) * branch_read + own * 3 * 64 <= layers * 3 * 64 / 2
    assert (layers - own) * branch_products + own * 9 * 64 <= layers * 9 * 64 / 2
