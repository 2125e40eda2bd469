"""Options that several commands share: which model and how it runs, and how an answer is sampled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from openm3 import hub
from openm3.cli.progress import Progress, format_amount
from openm3.config import EngineConfig, ExtendOption, SparseConfig, WeightsOption
from openm3.context.store import Store
from openm3.errors import InputError

if TYPE_CHECKING:
    from openm3.context.files import Collection
    from openm3.engine.llm import LLM
    from openm3.engine.params import SamplingParams

Command = Callable[..., None]

_NOT_KEPT = {"cache_gb", "spill", "spill_dir", "spill_gb", "device", "backend", "tensor_parallel", "threads"}


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and how it runs; the values of `model_options`."""

    model: str
    attention: Literal["auto", "dense", "sparse"]
    blocks: int | None
    attention_mass: float | None
    block_size: int | None
    window: int | None
    extend: ExtendOption
    near: int | None
    cache_gb: float | None
    spill: bool
    spill_dir: str | None
    spill_gb: float | None
    index: Literal["auto", "int8", "exact"]
    index_branch: str
    dtype: Literal["bfloat16", "float32"]
    weights: WeightsOption
    device: Literal["cpu", "cuda"] | None
    backend: str | None
    graphs: bool
    tensor_parallel: int
    step_ms: int | None
    overflow: Literal["refuse", "compact"]
    speculation: Literal["auto", "lookup", "off"]
    threads: int | None

    def engine_config(self) -> EngineConfig:
        """The engine's configuration.

        Raises:
            InputError: a value is out of range.
        """
        return EngineConfig(
            attention=self.attention,
            sparse=self._sparse(),
            attention_mass=self.attention_mass,
            max_context=self.window,
            extend=self.extend,
            near_window=self.near,
            cache_bytes=_gib(self.cache_gb),
            spill=self.spill,
            spill_dir=self.spill_dir,
            spill_bytes=_gib(self.spill_gb),
            index=self.index,
            index_branch=self.index_branch,
            dtype=self.dtype,
            weights=self.weights,
            device=self.device,
            backend=self.backend,
            cuda_graphs=self.graphs,
            tensor_parallel=self.tensor_parallel,
            step_ms=self.step_ms,
            overflow=self.overflow,
            speculation=self.speculation,
        )

    def _sparse(self) -> SparseConfig | None:
        asked = {"index_block_size": self.block_size, "index_topk_blocks": self.blocks}
        given = {name: value for name, value in asked.items() if value is not None}
        return SparseConfig(**given) if given else None

    def kept(self) -> dict[str, Any]:
        """What is kept beside a context that these options read: all but what is this machine's or this run's."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _NOT_KEPT}
        for name in ("model", "index_branch"):
            if Path(values[name]).exists():
                values[name] = str(Path(values[name]).resolve())
        return values

    def like(self, kept: Mapping[str, Any]) -> ModelOptions:
        """The same, with what is kept beside a context where the command line says nothing else."""
        source = click.get_current_context().get_parameter_source
        here = {field.name for field in fields(self) if source(field.name) is ParameterSource.DEFAULT}
        return replace(self, **{name: value for name, value in kept.items() if name in here})

    def load(self) -> LLM:
        """Loads the model, and fetches it first when it is not on this disk."""
        config = self.engine_config()  # wrong options are told before anything is fetched
        with Progress(f"pulling {self.model}", "bytes") as progress:
            path = hub.pull(self.model, on_progress=progress.update)
        import torch

        from openm3.engine.llm import LLM

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        llm = LLM(path, config)
        if llm.engine.runner.spill:
            click.echo(f"keys and values lie in {llm.engine.runner.spill}, {self.cache_gb:g} GiB in memory", err=True)
        trained = llm.model_config.max_position_embeddings
        if llm.config.extend == "none" and llm.max_context > trained:
            click.echo(
                f"openm3: the model was trained for {trained:,} tokens and can't read what lies further back in a "
                f"window of {llm.max_context:,} with --extend none; leave the option out",
                err=True,
            )
        return llm

    def load_with(self, name: str) -> tuple[LLM, Collection]:
        """Loads a kept context and the model that read it, which then knows it; returns the context's files too.

        Raises:
            InputError: there is no such context, or the cache can't hold it.
            StoreError: it was altered, or the model or an option is another one.
        """
        with contexts_here().open(name) as context:
            llm = self.like(context.about.options).load()
            from openm3.engine import contexts

            started = time.perf_counter()
            num_tokens = contexts.load(llm, context)
            took_s = time.perf_counter() - started
            size = format_amount(context.num_bytes, "bytes")
            click.echo(f"{name}: {num_tokens:,} tokens, {size}, loaded in {took_s:.2f} s", err=True)
            return llm, context.collection()


def _gib(count: float | None) -> int | None:
    return None if count is None else int(count * (1 << 30))


def contexts_here() -> Store:
    """The contexts on this disk, beside the models."""
    return Store(hub.home() / "contexts")


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How an answer is sampled; the values of `sampling_options`."""

    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int | None
    stop: tuple[str, ...]

    def params(self) -> SamplingParams:
        """The request's parameters.

        Raises:
            InputError: a value is out of range.
        """
        from openm3.engine.params import SamplingParams

        return SamplingParams(**{field.name: getattr(self, field.name) for field in fields(self)})


_MODEL_OPTIONS = (
    click.option("-m", "--model", default="default", show_default=True, metavar="MODEL",
                 help="A name of `openm3 models`, a GGUF file, a folder in the Hugging Face layout, or a hub id."),
    click.option("--attention", type=click.Choice(["auto", "dense", "sparse"]), default="auto", show_default=True,
                 help="Read every block of the context, or the blocks that each query chooses; "
                      "auto: as the model was trained."),
    click.option("--blocks", type=int, show_default="those of the index branch, else 16", metavar="N",
                 help="Blocks that a query reads with --attention sparse."),
    click.option("--attention-mass", type=float, metavar="SHARE",
                 help="With --attention sparse: answers read as few blocks, at most --blocks, as hold this share of "
                      "the attention of the prompt's last token; try 0.95."),
    click.option("--block-size", type=int, show_default="that of the index branch, else 128", metavar="TOKENS",
                 help="Tokens in a block, which is also a page of the cache."),
    click.option("--index", type=click.Choice(["auto", "int8", "exact"]), default="auto", show_default=True,
                 help="Choose blocks from keys in 8 bits with error bounds: the same blocks, half the reading. "
                      "auto: where the window is long enough for it to pay."),
    click.option("--index-branch", default="auto", show_default=True, metavar="FOLDER",
                 help="Choose blocks by an index branch that was made for this model, or with 'none' by its own keys. "
                      "auto: the branch beside the weights, else one that this package has for the model."),
    click.option("--window", type=int, metavar="TOKENS",
                 help="Longest prompt and answer together. Default: what the model was trained for; "
                      "beyond that see --extend."),
    click.option("--extend", type=click.Choice(["auto", "none", "ntk", "yarn", "clamped"]), default="auto",
                 show_default=True,
                 help="How a window past the trained one is read: stretch the rotary angles (ntk, yarn), or see all "
                      "far blocks at one distance (clamped). auto: clamped there, yarn with --attention dense."),
    click.option("--near", type=int, metavar="TOKENS",
                 help="Tokens that --extend clamped reads at their true distance. Default: 4096, at most half of the "
                      "trained window."),
    click.option("--cache-gb", type=click.FloatRange(min=0, min_open=True), metavar="GIB",
                 help="Memory for keys and values. Default: one full window, at least 1."),
    click.option("--spill", is_flag=True,
                 help="Keep keys and values in a file, --cache-gb of them in memory: for windows that memory "
                      "can't hold."),
    click.option("--spill-dir", metavar="DIR", help="Folder of that file. Default: the cache folder."),
    click.option("--spill-gb", type=click.FloatRange(min=0, min_open=True), metavar="GIB",
                 help="Size of that file. Default: as one full window needs."),
    click.option("--dtype", type=click.Choice(["bfloat16", "float32"]), default="bfloat16", show_default=True,
                 help="Of weights and cache."),
    click.option("--weights", type=click.Choice(["auto", "bf16", "packed", "int8"]), default="auto", show_default=True,
                 help="How matrices are held: in 16 bits; as a quantised file has them (GGUF: same answers, faster; "
                      "MXFP8: half the memory, slower); or rounded to 8 bits. auto: packed for GGUF files."),
    click.option("--device", type=click.Choice(["cpu", "cuda"]),
                 help="Where weights and cache lie. Default: a GPU where there is one."),
    click.option("--backend", metavar="NAME",
                 help="Kernels: triton, native, torch, reference. Default: the best that is there."),
    click.option("--graphs/--no-graphs", default=True, show_default=True,
                 help="On a GPU, record each kind of decode step once and replay it."),
    click.option("--tensor-parallel", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
                 help="Compute the model in N processes, each with its part of it; on GPUs one each."),
    click.option("--step-ms", type=click.IntRange(min=1), metavar="MS",
                 help="How long a step may take while others are answering: prompts are read in pieces that fit. "
                      "Default: 100 where that changes no token."),
    click.option("--overflow", type=click.Choice(["refuse", "compact"]), default="refuse", show_default=True,
                 help="What is more than the window is refused, or the least important blocks are dropped whenever it "
                      "is full."),
    click.option("--speculation", type=click.Choice(["auto", "lookup", "off"]), default="auto", show_default=True,
                 help="Draft what comes next from what followed the same words before: the same answer, sooner. "
                      "auto: where that changes no token."),
    click.option("--threads", type=click.IntRange(min=1), help="Threads to compute with. Default: one a core."),
)  # fmt: skip


@contextmanager
def named_options() -> Iterator[None]:
    """While inside, an error about a field of a configuration names the option of the command that sets it."""
    try:
        yield
    except InputError as error:
        for parameter in click.get_current_context().command.params:
            if parameter.name == error.field and isinstance(parameter, click.Option):
                raise InputError(max(parameter.opts, key=len), error.message) from error
        raise


def numbers(name: str, text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them.

    Raises:
        InputError: it is something else; the field is `name`.
    """
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise InputError(name, f"{text!r} is no list of numbers like 1,2,3") from None


def context_option(verb: str, *, required: bool = False) -> Callable[[Command], Command]:
    """`--context PATH`, given as `paths`; `verb` is what is done with the files."""
    return click.option(
        "-c",
        "--context",
        "paths",
        multiple=True,
        required=required,
        metavar="PATH",
        help=f"A file, folder or glob to {verb}; may be given again. Folders respect .gitignore.",
    )


def model_options(command: Command) -> Command:
    """Adds the model's options; the command gets them as one `ModelOptions` named `model_options`."""
    return grouped(command, _MODEL_OPTIONS, ModelOptions, "model_options")


def sampling_options(
    *, temperature: float = 0.0, frequency_penalty: float = 0.0, max_tokens: int | None = None
) -> Callable[[Command], Command]:
    """Adds the sampling options; the command gets them as one `SamplingOptions` named `sampling_options`."""
    options = (
        click.option("-n", "--max-tokens", type=int, default=max_tokens, show_default=True,
                     help="The most tokens to answer. Default without a number: what fits in the window."),
        click.option("-t", "--temperature", type=float, default=temperature, show_default=True,
                     help="0 always takes the likeliest token."),
        click.option("--top-p", type=float, default=1.0, show_default=True,
                     help="Sample from the likeliest tokens that make up this much probability."),
        click.option("--top-k", type=int, default=0, show_default=True,
                     help="Sample from this many of the likeliest tokens; 0 from all."),
        click.option("--min-p", type=float, default=0.0, show_default=True,
                     help="Drop tokens less likely than this share of the likeliest."),
        click.option("--repetition-penalty", type=float, default=1.0, show_default=True,
                     help="Above 1 makes tokens of the prompt and the answer less likely."),
        click.option("--presence-penalty", type=float, default=0.0, show_default=True,
                     help="Above 0 makes tokens less likely once the answer has them."),
        click.option("--frequency-penalty", type=float, default=frequency_penalty, show_default=True,
                     help="The same, for each time that the answer has them."),
        click.option("--seed", type=int, help="The same seed gives the same answer."),
        click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be given again."),
    )  # fmt: skip
    return lambda command: grouped(command, options, SamplingOptions, "sampling_options")


def grouped(command: Command, options: tuple[Any, ...], group: type[Any], name: str) -> Command:
    """Applies click options whose values reach the command as one dataclass."""

    def with_group(**values: Any) -> None:
        own = {field.name: values.pop(field.name) for field in fields(group)}
        command(**values, **{name: group(**own)})

    with_group.__doc__ = command.__doc__
    with_group.__name__ = command.__name__
    with_group.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in reversed(options):
        option(with_group)
    return with_group
