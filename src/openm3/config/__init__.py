"""The configuration of a model, with the field names of the published `config.json`, and that of an engine."""

from openm3.config.engine import EngineConfig, ExtendOption, WeightsOption
from openm3.config.model import IndexConfig, ModelConfig, MoEConfig, RopeScaling, SwigluOAI
from openm3.config.names import nearest
from openm3.config.sparse import SparseConfig

__all__ = [
    "EngineConfig",
    "ExtendOption",
    "IndexConfig",
    "MoEConfig",
    "ModelConfig",
    "RopeScaling",
    "SparseConfig",
    "SwigluOAI",
    "WeightsOption",
    "nearest",
]
