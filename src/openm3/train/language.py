"""Language-model training: the loss of the next token, and beside it the alignment losses of the index branch.

    L = L_LM + weight * (sum over layers of L_KL)      (arXiv 2606.13392, section 3)

The branch has its own gradient norm and learning rate, so that nothing of it changes what the model learns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openm3.train.data import Window
from openm3.train.model import Losses, TrainableDecoder
from openm3.train.packed import Packed, num_targets
from openm3.train.run_config import RunConfig
from openm3.train.schedule import share_of_peak
from openm3.train.session import Row
from openm3.train.sharding import Group, part_like, whole

_MOMENTS = ("exp_avg", "exp_avg_sq")


class LanguageLearner:
    """Teaches a decoder, in one process or several: a `Learner` of `train/session.py`.

    All processes are given the same windows and take their part; their figures are those of all.

    Args:
        decoder: sharded and filled.
        config: the run's.
        group: the processes.
        hook: called after every step with how many are done; the figures that it returns join those of the step.
    """

    def __init__(
        self,
        decoder: TrainableDecoder,
        config: RunConfig,
        group: Group,
        hook: Callable[[int], Row] = lambda num_steps: {},
    ) -> None:
        self.decoder, self.config, self.group, self.num_steps, self.hook = decoder, config, group, 0, hook
        self._names = {parameter: name for name, parameter in decoder.named_parameters()}
        index = {p: name for p, name in self._names.items() if ".self_attn.index_" in name}
        self._main, self._index = [p for p in self._names if p not in index], list(index)
        training, alignment = config.training, config.alignment
        self._peaks = (training.lr, training.lr, training.lr if alignment.lr is None else alignment.lr)
        groups = [
            {"params": [p for p in self._main if p.ndim > 1], "weight_decay": training.weight_decay},
            {"params": [p for p in self._main if p.ndim == 1], "weight_decay": 0.0},
            {"params": self._index, "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=training.lr, betas=training.betas, eps=training.eps, fused=True)

    def step(self, windows: Sequence[Window]) -> Row:
        """Learns from one batch; see `Learner`."""
        training, alignment = self.config.training, self.config.alignment
        share = share_of_peak(self.num_steps, training)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * share
        dense, align = self.num_steps < alignment.dense_steps, bool(self._index)
        num_tokens, count = sum(len(window.ids_T) for window in windows), num_targets(windows)
        parts = self._mine(windows)
        sums: list[Losses] = []
        for i, part in enumerate(parts):
            self.decoder.set_requires_gradient_sync(i + 1 == len(parts))  # type: ignore[operator]
            losses = self.decoder(Packed.of(part, self.group.device), dense, align)
            loss = losses.nll / max(1, count) + alignment.weight * losses.kl_L.sum() / num_tokens
            (loss * self.group.size).backward()  # the processes' gradients are averaged
            sums.append(Losses(*(x.detach() for x in losses)))
        nll, kl_L, load_LE = (self.group.sum(torch.stack(each).sum(0)) for each in zip(*sums, strict=True))
        row: Row = {"lr": training.lr * share, "nll": float(nll) / max(1, count)}
        row["gradient_norm"] = self._clip(self._main)
        if self._index:
            row["kl"] = float(kl_L.sum()) / num_tokens
            row["kl_by_layer"] = [kl / num_tokens for kl in kl_L.tolist()]
            row["index_gradient_norm"] = self._clip(self._index)
        if load_LE.numel():
            row["expert_load"] = float((load_LE.amax(-1) / load_LE.float().mean(-1)).max())
        self._optimizer.step()
        self._optimizer.zero_grad()
        for moe, load_E in zip(self.decoder.experts(), load_LE, strict=True):
            moe.balance(load_E, training.balance_rate)
        self.num_steps += 1
        return row | self.hook(self.num_steps)

    @torch.no_grad()
    def measure(self, windows: Sequence[Window]) -> Row:
        """Mean NLL of windows in nats a token: reading everything and, where layers choose blocks, reading those."""
        row: Row = {}
        names = {"held_out_dense": True} | ({"held_out_sparse": False} if self.decoder.chooses_blocks else {})
        for name, dense in names.items():
            parts = (Packed.of(part, self.group.device) for part in self._mine(windows))
            nll = torch.stack([self.decoder(part, dense).nll for part in parts]).sum()
            row[name] = float(self.group.sum(nll)) / max(1, num_targets(windows))
        return row

    def parameters(self) -> dict[str, Tensor]:
        """All of the model's numbers, whole and fp32, on the CPU of the first process; every process asks at once."""
        return self._gathered(self.decoder.state_dict())

    def state_dict(self) -> Mapping[str, Any]:
        """See `Learner`; as `parameters`, whole in the first process, so that any number of processes can go on."""
        state = self._optimizer.state
        moments = {m: {self._names[p]: state[p][m] for p in self._names if p in state} for m in _MOMENTS}
        return {
            "num_steps": self.num_steps,
            "parameters": self.parameters(),
            **{moment: self._gathered(tensors) for moment, tensors in moments.items()},
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Learner`; every process is given the whole state."""
        self.num_steps = state["num_steps"]
        for name, tensor in self.decoder.state_dict().items():
            tensor.copy_(part_like(state["parameters"][name], tensor))
        for parameter, name in self._names.items():
            if name in state[_MOMENTS[0]]:
                moments = {moment: part_like(state[moment][name], parameter) for moment in _MOMENTS}
                self._optimizer.state[parameter] = {"step": torch.tensor(float(self.num_steps)), **moments}

    def _mine(self, windows: Sequence[Window]) -> list[Sequence[Window]]:
        """This process's windows, in the parts that are computed at once; as many parts in every process."""
        mine, at_once = windows[self.group.rank :: self.group.size], self.config.training.windows_at_once
        return [mine[i : i + at_once] for i in range(0, len(mine), at_once)]

    def _clip(self, parameters: Sequence[nn.Parameter]) -> float:
        norm = nn.utils.clip_grad_norm_(parameters, self.config.training.clip_norm)
        return float(whole(norm))

    def _gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One after the other, so that no other process has more than one whole at a time."""
        found = {}
        for name, tensor in tensors.items():
            full = whole(tensor.detach())
            if self.group.rank == 0:
                found[name] = full.to("cpu", torch.float32)
        return found
