"""Which index branch a dense model is given: its own sidecar, the one that this package has for it, or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import openm3
from openm3.config import EngineConfig
from openm3.errors import InputError, ModelError
from openm3.model.aligned import AlignedCheckpoint
from openm3.model.identity import identity_of
from openm3.model.sidecar import ABOUT, Sidecar
from openm3.model.weights import Checkpoint, open_checkpoint


def open_model(path: Path, config: EngineConfig) -> Checkpoint:
    """The checkpoint at a path, with the index branch that `config.index_branch` means for it.

    Blocks that `config.sparse` asks for take the place of those that the branch was made for.

    Raises:
        InputError: an option that the model leaves no choice about.
        ModelError: the checkpoint can't be read, or the branch can't, or it is another model's.
    """
    checkpoint, option = open_checkpoint(path), config.index_branch
    if checkpoint.config.index is not None:
        if option != "auto":
            raise InputError("index_branch", f"{option!r}: this model has an index branch of its own; leave it out")
        return checkpoint
    if option == "none" or (option == "auto" and config.attention == "dense"):
        return checkpoint
    if config.attention == "dense":
        raise InputError("index_branch", "chooses blocks, and attention 'dense' reads all; leave one of them out")
    sidecar = _sidecar_for(checkpoint, option)
    if sidecar is None:
        return checkpoint
    if config.sparse is not None:
        sidecar = replace(sidecar, index=replace(sidecar.index, sparse=config.sparse))
    return AlignedCheckpoint(checkpoint, sidecar)


def place_beside(path: Path) -> Path:
    """The folder in which a model's sidecar is looked for: the model's own, or NAME.msa beside NAME.gguf."""
    return path if path.is_dir() else path.with_suffix(".msa")


def packaged() -> Path:
    """The folder of the default model's branch, which comes with this package; it may be missing."""
    return Path(openm3.__file__).parent / "data" / "msa"  # importlib.resources sees two folders of an editable install


def _sidecar_for(checkpoint: Checkpoint, option: str) -> Sidecar | None:
    given = None if option == "auto" else Path(option).expanduser()
    if given is None and (place_beside(checkpoint.path) / ABOUT).is_file():
        given = place_beside(checkpoint.path)
    if given is not None:
        sidecar = Sidecar.read(given)
        sidecar.check(checkpoint.config)
        if sidecar.model_identity != (identity := identity_of(checkpoint)):
            raise ModelError(
                f"{given}: this index branch was made for the model {sidecar.model_identity}, and "
                f"{checkpoint.path.name} is {identity}; take the one that was made for it, or 'none'"
            )
        return sidecar
    if not (packaged() / ABOUT).is_file():
        return None
    sidecar = Sidecar.read(packaged())
    # What doesn't fit is another model: it need not be read whole to know that.
    ours = sidecar.fits(checkpoint.config) and sidecar.model_identity == identity_of(checkpoint)
    return sidecar if ours else None
