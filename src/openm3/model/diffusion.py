"""Text-to-image models: a folder of a pipeline of diffusers, drawn with step by step."""

from __future__ import annotations

import copy
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from openm3.errors import InputError, ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

_INDEX = "model_index.json"
_NEEDED = ("prompt", "width", "height", "num_inference_steps", "generator", "callback_on_step_end")
_PATCH = 16  # pixels that latents of all families divide evenly, two by two


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """An image that is asked for; what is None is the model's to say.

    Attributes:
        prompt: what it shows.
        negative_prompt: what it shouldn't show.
        size: width and height in pixels.
        steps: of denoising.
        guidance_scale: how closely it follows the prompt.
        seed: the same one gives the same image on the same machine.
    """

    prompt: str
    negative_prompt: str | None = None
    size: tuple[int, int] | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0


class Flagged(Exception):
    """The model's own safety checker took the image back."""


def check_pipeline(folder: Path) -> None:
    """Refuses what surely can't be loaded, without loading it.

    Raises:
        ModelError: there is no pipeline in the folder, or a library is missing; says what to do.
    """
    if not (folder / _INDEX).is_file():
        raise ModelError(
            f"{folder} has no {_INDEX}; give a folder that `save_pretrained` of a diffusers pipeline wrote"
        )
    for library in ("diffusers", "transformers", "PIL"):
        if importlib.util.find_spec(library) is None:
            raise ModelError(f"{library} is not installed; pip install 'openm3[images]'")


class ImagePipeline:
    """A loaded pipeline; it knows no thread but the caller's. Weights are read from safetensors alone, and no code.

    It is on the GPU in bf16 where there is one, else on the CPU in fp32.

    Args:
        folder: with a model_index.json.

    Attributes:
        device: where it computes.
        max_tokens: the most tokens of a prompt, those that the model puts around it included; None: any number.
        multiple: what width and height are multiples of.
        own_size: pixels of each side that it was trained for; None: it doesn't say.

    Raises:
        ModelError: the folder can't be used; says why.
    """

    def __init__(self, folder: Path) -> None:
        check_pipeline(folder)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._pipeline = _load(folder, self.device)
        self._takes = inspect.signature(self._pipeline.__call__).parameters
        if missing := [name for name in _NEEDED if name not in self._takes]:
            raise ModelError(f"{folder}: {type(self._pipeline).__name__} draws nothing from texts: no {missing[0]}")
        scale = int(getattr(self._pipeline, "vae_scale_factor", 1))
        self.multiple = lcm(_PATCH, scale)
        self.own_size = self._own_size(scale)
        # Copies: the pipeline's own are at work while it draws.
        names = ("tokenizer", "tokenizer_2", "tokenizer_3")
        own = (getattr(self._pipeline, name, None) for name in names)
        self._tokenizers = [copy.deepcopy(each) for each in own if each is not None]
        self.max_tokens = self._max_tokens()

    def num_tokens(self, text: str) -> int:
        """How many tokens a text is, those around it included."""
        return max((len(each(text).input_ids) for each in self._tokenizers), default=0)

    def complete(self, drawing: Drawing) -> Drawing:
        """The same with the model's own size and steps where none are asked for.

        Raises:
            InputError: the model can't draw it, or would draw it otherwise than asked; names the field of `Drawing`.
        """
        size = drawing.size or (self.own_size and (self.own_size, self.own_size))
        if not size:
            raise InputError("size", "this model has no size of its own; give one such as 512x512")
        if any(side % self.multiple for side in size):
            raise InputError("size", f"{size[0]}x{size[1]}: width and height must be multiples of {self.multiple}")
        for name in ("prompt", "negative_prompt"):
            num_tokens = self.num_tokens(getattr(drawing, name) or "")
            if self.max_tokens is not None and num_tokens > self.max_tokens:
                raise InputError(name, f"has {num_tokens} tokens and the model reads {self.max_tokens}")
        if drawing.guidance_scale is not None and "guidance_scale" not in self._takes:
            raise InputError("guidance_scale", "is not for this model")
        if drawing.negative_prompt is not None:
            if "negative_prompt" not in self._takes or "true_cfg_scale" in self._takes:
                raise InputError("negative_prompt", "is not for this model")
            if drawing.guidance_scale is not None and drawing.guidance_scale <= 1:
                raise InputError("negative_prompt", "does nothing with a guidance_scale of 1 or less")
        steps = drawing.steps or int(self._takes["num_inference_steps"].default)
        most = self._pipeline.scheduler.config.get("num_train_timesteps", steps)
        if steps > most:
            raise InputError("steps", f"must be at most {most} for this model, got {steps}")
        return replace(drawing, size=size, steps=steps)

    def draw(self, drawing: Drawing, on_step: Callable[[int], None]) -> Image:
        """An image, complete as asked; `on_step` is told each step's number, from 1, and may raise to end it.

        Raises:
            Flagged: the model's safety checker took it back.
        """
        assert drawing.size, "not complete"
        width, height = drawing.size
        optional = {"negative_prompt": drawing.negative_prompt, "guidance_scale": drawing.guidance_scale}

        def stepped(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            on_step(step + 1)
            return tensors

        drawn = self._pipeline(
            prompt=drawing.prompt,
            width=width,
            height=height,
            num_inference_steps=drawing.steps,
            generator=torch.Generator().manual_seed(drawing.seed),  # the CPU's: the same noise on every device
            callback_on_step_end=stepped,
            **{name: value for name, value in optional.items() if value is not None},
        )
        if any(getattr(drawn, "nsfw_content_detected", None) or ()):
            raise Flagged
        [image] = drawn.images
        assert image.size == drawing.size, "the pipeline has changed the size"
        return image

    def _max_tokens(self) -> int | None:
        """What the longest of its text encoders reads, where a pipeline says that; else the shortest."""
        if (limit := self._takes.get("max_sequence_length")) and isinstance(limit.default, int):
            return limit.default
        return min((int(each.model_max_length) for each in self._tokenizers), default=None)

    def _own_size(self, scale: int) -> int | None:
        if isinstance(size := self._takes["height"].default, int):
            return size
        network = getattr(self._pipeline, "transformer", None) or getattr(self._pipeline, "unet", None)
        latents = getattr(self._pipeline, "default_sample_size", None) or getattr(
            getattr(network, "config", None), "sample_size", None
        )
        return latents * scale if isinstance(latents, int) else None


def _load(folder: Path, device: str) -> Any:
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    pipelines: Any = diffusers.DiffusionPipeline  # whose methods have no types
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    try:
        pipeline = pipelines.from_pretrained(str(folder), use_safetensors=True, local_files_only=True, dtype=dtype)
        pipeline.to(device)
    except Exception as error:  # whatever a wrong file makes the libraries say
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{folder} can't be loaded: {reason}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
