"""The vision tower: patches to features. Letters: N patches of a segment, P values of a patch, C hidden size, H heads,
D head size, E angles.

The stream between layers, norms and rotations are fp32, products in the dtype of the weights, as in the decoder.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from openm3.model.vision_config import Grid, VisionConfig
from openm3.model.vision_rope import angles, rotate


class VisionTower(nn.Module):
    """A transformer over the patches of one segment, all of which see all. Parameter names are the published ones."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        patch = (config.temporal_patch_size, config.patch_size, config.patch_size)
        convolution = nn.Conv3d(config.num_channels, config.hidden_size, patch, stride=patch, bias=False)
        self.embeddings = nn.ModuleDict({"patch_embedding": convolution})
        self.pre_layrnorm = _layer_norm(config)
        self.encoder = nn.ModuleDict(
            {"layers": nn.ModuleList(VisionLayer(config) for _ in range(config.num_hidden_layers))}
        )

    def forward(self, x_NP: Tensor, grid: Grid) -> Tensor:
        """Features (fp32, [N, C]) of a segment's normalised patches."""
        # Patches don't overlap: the convolution is one product for each.
        weight_CP = cast(Tensor, self.embeddings["patch_embedding"].weight).flatten(1)
        x_NC = F.linear(x_NP.to(weight_CP.dtype), weight_CP)
        x_NC = normalize(self.pre_layrnorm, x_NC)
        angles_NE = angles(grid, self.config, x_NC.device)
        for layer in cast(nn.ModuleList, self.encoder["layers"]):
            x_NC = layer(x_NC, angles_NE)
        return x_NC


class VisionLayer(nn.Module):
    """Attention and MLP, each behind a LayerNorm, each added to the stream."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = _layer_norm(config)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = _layer_norm(config)
        self.mlp = VisionMLP(config)

    def forward(self, x_NC: Tensor, angles_NE: Tensor) -> Tensor:
        x_NC = x_NC + self.self_attn(normalize(self.layer_norm1, x_NC), angles_NE)
        return cast(Tensor, x_NC + self.mlp(normalize(self.layer_norm2, x_NC)))


class VisionAttention(nn.Module):
    """Attention of every patch over every patch."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(config.hidden_size, config.hidden_size) for _ in range(4)
        )

    def forward(self, x_NC: Tensor, angles_NE: Tensor) -> Tensor:
        q_NHD, k_NHD, v_NHD = (
            linear(projection, x_NC).unflatten(1, (-1, self.head_dim))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        dtype = v_NHD.dtype
        q_NHD, k_NHD = (rotate(x.float(), angles_NE).to(dtype) for x in (q_NHD, k_NHD))
        q, k, v = (x.transpose(0, 1)[None] for x in (q_NHD, k_NHD, v_NHD))
        out = F.scaled_dot_product_attention(q, k, v)[0]
        return linear(self.out_proj, out.transpose(0, 1).flatten(1)).float()


class VisionMLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x_NC: Tensor) -> Tensor:
        return linear(self.fc2, F.gelu(linear(self.fc1, x_NC))).float()


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer` of x, in the dtype of its weights."""
    return cast(Tensor, layer(x.to(layer.weight.dtype)))


def normalize(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """`norm` of x in fp32."""
    return F.layer_norm(x.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)


def _layer_norm(config: VisionConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
