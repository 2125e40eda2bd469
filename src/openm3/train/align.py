"""Teaches an index branch to a frozen dense model (MSA, arXiv 2606.13392), layer by layer.

The model reads windows of text; in every layer the branch sees the layer's input and learns which blocks attention
looks at (`train/kl.py`). No gradient leaves a layer's branch, so the model stays as it is, and one layer's tensors are
all that is held. `docs/alignment.md` is the report of the method.

Letters: T tokens of a window, C hidden size or that of an index head, n sampled query tokens, J index query heads,
X index key heads, R groups, B blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from openm3 import hub
from openm3.config import EngineConfig, ModelConfig, SparseConfig
from openm3.config.model import IndexConfig
from openm3.engine.llm import LLM
from openm3.errors import InputError
from openm3.model.attention import norm_and_rotate
from openm3.model.linear import Linear
from openm3.model.norm import RMSNorm
from openm3.model.rope import Rotation
from openm3.model.sidecar import write_sidecar
from openm3.model.weights import open_checkpoint
from openm3.train import kl
from openm3.train.begin import begin
from openm3.train.data import Window
from openm3.train.inputs import LayerInputs, read_window


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """How an index branch is taught. The defaults made the default model's.

    Attributes:
        num_steps: optimiser steps in all, which the learning rate follows.
        window: tokens of a window, whole blocks; as long as the branch is to be good at, within the trained window.
        rows: query tokens of a window that it learns from, drawn from its last seven eighths.
        lr: largest learning rate of AdamW, after `warmup_steps`; it falls by a cosine to a twentieth.
        warmup_steps: steps over which the learning rate rises.
        sparse_steps: the last steps, in which the loss is over the blocks that the branch chooses; before that it is
            over all visible blocks.
        target: of the mass of a group's heads, the "max" (what any head needs) or the "mean" (of the paper).
        index_n_heads: index query heads; None is one for each key/value head.
        index_n_key_heads, index_head_dim, use_index_norm: see `IndexConfig`; head size None is the model's.
        index_rotary_dim: likewise; None is a quarter of the elements that the model rotates.
        own_key_layers: layers that choose by the model's own keys: those whose heads copy from far away.
        dense_layers: layers that go on reading everything.
        sparse: blocks, and how many a query reads.
        seed: of the rows that are drawn.
        dtype, device: of the model, see `EngineConfig`; the branch learns in float32.
    """

    num_steps: int = 300
    window: int = 8192
    rows: int = 512
    lr: float = 1e-2
    warmup_steps: int = 10
    sparse_steps: int = 0
    target: Literal["max", "mean"] = "max"
    index_n_heads: int | None = None
    index_n_key_heads: int = 1
    index_head_dim: int | None = None
    index_rotary_dim: int | None = None
    use_index_norm: bool = False
    own_key_layers: tuple[int, ...] = ()
    dense_layers: tuple[int, ...] = ()
    sparse: SparseConfig = field(default_factory=SparseConfig)
    seed: int = 0
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    device: Literal["cpu", "cuda"] | None = None

    def __post_init__(self) -> None:
        for name in ("num_steps", "rows"):
            if getattr(self, name) < 1:
                raise InputError(name, f"must be at least 1, got {getattr(self, name)}")
        for name in ("warmup_steps", "sparse_steps"):
            if getattr(self, name) < 0:
                raise InputError(name, f"can't be negative, got {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise InputError("lr", f"must be more than 0, got {self.lr}")
        if self.target not in ("max", "mean"):
            raise InputError("target", f"must be 'max' or 'mean', got {self.target!r}")
        block, least = self.sparse.index_block_size, self.sparse.index_topk_blocks + 1
        if self.window % block or self.window < least * block:
            raise InputError(
                "window",
                f"must be whole blocks of {block} tokens and more than the {least - 1} that a query reads, so at least "
                f"{least * block}, got {self.window}",
            )

    def index_for(self, model: ModelConfig) -> IndexConfig:
        """The form of a model's branch.

        Raises:
            InputError: a layer that the model doesn't have.
            ModelError: sizes that don't fit the model.
        """
        layers = model.num_hidden_layers
        without = set(self.own_key_layers) | set(self.dense_layers)
        for name in ("own_key_layers", "dense_layers"):
            if outside := [layer for layer in getattr(self, name) if not 0 <= layer < layers]:
                raise InputError(name, f"the model has layers 0 to {layers - 1}, got {outside}")
        if both := sorted(set(self.own_key_layers) & set(self.dense_layers)):
            raise InputError("dense_layers", f"{both} are own_key_layers too")
        if len(without) == layers:
            raise InputError("own_key_layers", "leave no layer that an index branch could be taught")
        rotary_dim = (model.rotary_dim or model.head_dim) // 4 // 2 * 2
        return IndexConfig(
            index_n_heads=self.index_n_heads or model.num_key_value_heads,
            index_n_key_heads=self.index_n_key_heads,
            index_head_dim=self.index_head_dim or model.head_dim,
            index_rotary_dim=rotary_dim if self.index_rotary_dim is None else self.index_rotary_dim,
            use_index_norm=self.use_index_norm,
            own_key_layers=tuple(sorted(self.own_key_layers)),
            sparse=self.sparse,
            sparse_attention_freq=tuple(int(layer not in without) for layer in range(layers)),
        )

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.num_steps)))
        return self.lr * rise * (0.05 + 0.95 * fall)


class IndexBranch(nn.Module):
    """One layer's index branch while it learns, fp32; parameters have the names that they have in the checkpoint."""

    def __init__(self, model: ModelConfig, index: IndexConfig) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.pairs = (
            index.index_n_heads,
            index.index_head_dim,
            model.index_rotary_dim // 2,
        )
        self.index_q_proj = Linear(model.hidden_size, index.index_n_heads * index.index_head_dim, bias=False)
        self.index_k_proj = Linear(model.hidden_size, index.index_n_key_heads * index.index_head_dim, bias=False)
        self.norms: tuple[RMSNorm, RMSNorm] | None = None
        if index.use_index_norm:
            self.index_q_norm, self.index_k_norm = (RMSNorm(index.index_head_dim, model) for _ in range(2))
            self.norms = self.index_q_norm, self.index_k_norm

    def forward(self, x_TC: Tensor, row_n: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Index queries `[n, J, C]` of some rows, and index keys `[T, X, C]` of all."""
        of_keys = rotation.thinned(self.pairs)
        of_rows = Rotation(of_keys.cos_TE[row_n], of_keys.sin_TE[row_n])
        q_nJC = self.index_q_proj(x_TC[row_n]).unflatten(-1, (-1, self.head_dim))
        k_TXC = self.index_k_proj(x_TC).unflatten(-1, (-1, self.head_dim))
        q_nJC, _ = norm_and_rotate(q_nJC, q_nJC.shape[1], self.norms, of_rows, of_rows)
        _, k_TXC = norm_and_rotate(k_TXC, 0, self.norms, of_keys, of_keys)
        return q_nJC, k_TXC


class Aligner:
    """Teaches the index branch of a model.

        aligner = Aligner("default", AlignConfig(num_steps=100))
        for window in islice(windows, 100):
            print(aligner.step([window])["recall"])
        aligner.write(Path("branch"), made={...})

    Args:
        model: as in `LLM`; dense, or with a branch that is not read.
        config: how it is taught.

    Attributes:
        llm: the model, dense.
        index: the form of the branch.
        branches: by layer, what is learnt.
        num_done: steps that are done.

    Raises:
        InputError, ModelError: see `AlignConfig.index_for` and `LLM`.
    """

    def __init__(self, model: str | Path, config: AlignConfig) -> None:
        self.config, self.num_done = config, 0
        self._checkpoint = open_checkpoint(hub.find(str(model)))
        dense = self._checkpoint.config
        self.index = config.index_for(dense)
        trained = dense.max_position_embeddings
        if config.window > trained:
            raise InputError(
                "window", f"{config.window} tokens are more than the {trained} that the model was trained on"
            )
        engine = EngineConfig(
            attention="dense",
            index_branch="none",
            extend="none",
            dtype=config.dtype,
            device=config.device,
            max_context=config.window,
            sparse=config.sparse,
        )
        self.llm = LLM(model, engine)
        self._model = replace(dense, index=self.index)  # checks the form
        layers = [layer for layer in range(dense.num_hidden_layers) if self._model.has_index(layer)]
        self._device = self.llm.engine.runner.device
        self.branches = {layer: IndexBranch(self._model, self.index).to(self._device) for layer in layers}
        parameters = [p for branch in self.branches.values() for p in branch.parameters()]
        self._optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.0)
        self._drawn, self._begun = torch.Generator().manual_seed(config.seed), set[int]()

    def step(self, windows: Sequence[Window]) -> dict[str, Any]:
        """Learns from some windows at once.

        Returns:
            `kl` and `recall`, means over the layers that learn, `lr`, and by layer `kl_by_layer` and
            `recall_by_layer`, which is the mass of the chosen blocks over that of the best ones, before the step.

        Raises:
            InputError: a window of another length.
        """
        lr = self.config.lr_at(self.num_done)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.zero_grad()
        found = torch.zeros(2, len(self.branches))
        for window in windows:
            found += self._learn(window, weight=1 / len(windows)) / len(windows)
        self._optimizer.step()
        self.num_done += 1
        kl_by_layer, recall_by_layer = ([round(x, 5) for x in row] for row in found.tolist())
        kl_mean, recall = found.mean(1).tolist()
        return {
            "kl": kl_mean,
            "recall": recall,
            "lr": lr,
            "kl_by_layer": kl_by_layer,
            "recall_by_layer": recall_by_layer,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on beside the configuration and the windows."""
        return {
            "num_done": self.num_done,
            "branches": {layer: branch.state_dict() for layer, branch in self.branches.items()},
            "optimizer": self._optimizer.state_dict(),
            "drawn": self._drawn.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from such a state."""
        for layer, branch in self.branches.items():
            branch.load_state_dict(state["branches"][layer])
        self._optimizer.load_state_dict(state["optimizer"])
        self._drawn.set_state(state["drawn"])
        self.num_done, self._begun = state["num_done"], set(self.branches)

    def tensors(self) -> dict[str, Tensor]:
        """The branches by the names of our parameters, bfloat16, norms fp32."""
        named = {
            f"layers.{layer}.self_attn.{name}": parameter
            for layer, branch in self.branches.items()
            for name, parameter in branch.state_dict().items()
        }
        return {name: x.float() if x.ndim == 1 else x.bfloat16() for name, x in named.items()}

    def write(self, folder: Path, made: Mapping[str, Any]) -> None:
        """Writes the sidecar, see `openm3.model.sidecar`.

        Args:
            folder: where to; made where it isn't there.
            made: what it was made from, beside the options and the number of steps, which are added.
        """
        about = {"options": asdict(self.config), "steps": self.num_done, **made}
        write_sidecar(folder, self.index, self.tensors(), self.llm.identity, about)

    def _learn(self, window: Window, weight: float) -> Tensor:
        """Adds one window's gradients; fp32 `[2, layers]`, the loss and the recall."""
        config = self.config
        if len(window.ids_T) != config.window:
            raise InputError("data", f"a window of {len(window.ids_T)} tokens, expected {config.window}")
        first = config.window // 8
        count = min(config.rows, config.window - first)
        row_n = torch.randperm(config.window - first, generator=self._drawn)[:count].sort().values + first
        found = []
        for inputs in read_window(self.llm.engine.runner, torch.from_numpy(window.ids_T), row_n):
            branch = self.branches.get(inputs.layer)
            if branch is None:
                continue
            if inputs.layer not in self._begun:
                self._begin(branch, inputs)
            loss, recall = self._loss(branch, inputs, row_n.to(self._device))
            (loss * weight).backward()
            found.append(torch.stack((loss.detach(), recall)))
        return torch.stack(found, dim=1).cpu()

    def _loss(self, branch: IndexBranch, inputs: LayerInputs, row_n: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a layer, with gradients, and the recall."""
        config, sparse = self.config, self.config.sparse
        block, num_groups = sparse.index_block_size, inputs.k_RTD.shape[0]
        mass_nRGB = kl.block_mass(inputs.q_nHD, inputs.k_RTD, row_n, block)
        index_q_nJC, index_k_TXC = branch(inputs.x_TC, row_n, inputs.rotation)
        scores_nRB = kl.block_scores(index_q_nJC, index_k_TXC, num_groups, block)
        candidates = kl.Candidates.of(row_n, scores_nRB.shape[-1], sparse)
        open_nRB = candidates.open_nB[:, None]
        if self.num_done >= config.num_steps - config.sparse_steps:
            open_nRB = open_nRB & candidates.chosen(scores_nRB.detach(), sparse.index_topk_blocks)
        target_nRB = mass_nRGB.amax(2) if config.target == "max" else mass_nRGB.mean(2)
        loss = kl.block_kl(target_nRB, scores_nRB, open_nRB)
        recall = kl.mass_recall(mass_nRGB.mean(2), scores_nRB.detach(), candidates, sparse.index_topk_blocks)
        return loss, recall

    def _begin(self, branch: IndexBranch, inputs: LayerInputs) -> None:
        """Sets a branch to what approximates the layer's own products best, see `train/begin.py`."""
        attention, x_TC = f"layers.{inputs.layer}.self_attn", inputs.x_TC
        weights = (self._checkpoint.read(f"{attention}.{part}_proj.weight") for part in ("q", "k"))
        size = self._model.head_dim
        q_HDC, k_RDC = (weight.float().to(self._device).unflatten(0, (-1, size)) for weight in weights)
        moment_CC = x_TC.T @ x_TC / len(x_TC)
        index_q, index_k = begin(q_HDC, k_RDC, moment_CC, self._model, self.index, self.config.window)
        with torch.no_grad():
            branch.index_q_proj.weight.copy_(index_q)
            branch.index_k_proj.weight.copy_(index_k)
        self._begun.add(inputs.layer)
