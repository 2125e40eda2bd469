"""`openm3 inspect`: what a checkpoint is, what it needs, and what would not load."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openm3 import hub
from openm3.cli.progress import format_amount
from openm3.config import EngineConfig, ExtendOption, ModelConfig, WeightsOption

if TYPE_CHECKING:
    from openm3.model.plan import MemoryPlan
    from openm3.model.sidecar import Sidecar
    from openm3.model.weights import Checkpoint


@click.command()
@click.argument("model")
@click.option(
    "--context",
    type=click.IntRange(min=1),
    metavar="TOKENS",
    help="Context to plan memory for. Default: the model's window.",
)
@click.option(
    "--extend",
    type=click.Choice(["auto", "none", "ntk", "yarn", "clamped"]),
    default="auto",
    show_default=True,
    help="As in `openm3 generate`: how a context past the trained window is read; clamped keeps keys twice.",
)
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float32"]),
    default="bfloat16",
    show_default=True,
    help="Of weights and cache.",
)
@click.option(
    "--weights",
    type=click.Choice(["auto", "bf16", "packed", "int8"]),
    default="auto",
    show_default=True,
    help="As in `openm3 generate`: how weights are held.",
)
@click.option(
    "--index-branch",
    default="auto",
    show_default=True,
    metavar="FOLDER",
    help="As in `openm3 generate`: the index branch of a dense model, or 'none'.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every tensor.")
def inspect(
    model: str,
    context: int | None,
    extend: ExtendOption,
    dtype: str,
    weights: WeightsOption,
    index_branch: str,
    as_json: bool,
) -> None:
    """Print MODEL's configuration, tensors, memory for a context, and what would not load.

    MODEL is what other commands take: a folder, a GGUF file, a name. Only headers are read, never weights. The exit
    code is 1 when it would not load.

    \b
    Examples:
      openm3 inspect ./MiniMax-M3-MXFP8 --weights packed --context 131072
      openm3 inspect default --json
    """
    import torch

    from openm3.kernels.backend import choose
    from openm3.model.aligned import AlignedCheckpoint
    from openm3.model.branch import open_model
    from openm3.model.decoder import empty_decoder
    from openm3.model.plan import active_parameters, parameter_shapes, plan_memory
    from openm3.model.weights import choose_weights, packed_bits, problems

    engine = EngineConfig(max_context=context, extend=extend, index_branch=index_branch)
    checkpoint = open_model(hub.find(model), engine)
    config = checkpoint.config
    engine = engine.for_model(config)
    shapes = parameter_shapes(config)
    found = list(problems(checkpoint, shapes))
    backend = choose()
    held = choose_weights(checkpoint, weights, getattr(torch, dtype), backend)
    plan = plan_memory(
        config,
        shapes,
        context=context or config.max_position_embeddings,
        page_size=engine.blocks.index_block_size,
        dtype=getattr(torch, dtype),
        batch_tokens=engine.max_batch_tokens,
        far=engine.extend == "clamped",
        packed_bits=packed_bits(checkpoint, empty_decoder(config, backend=backend), held) if not found else {},
    )
    parameters = sum(shape.numel() for shape in shapes.values())
    report = {
        "path": str(checkpoint.path),
        "config": asdict(config),
        "index_branch": _branch(checkpoint.sidecar) if isinstance(checkpoint, AlignedCheckpoint) else None,
        "parameters": parameters,
        "active_parameters": active_parameters(config, shapes),
        "tensors": _tensors(checkpoint),
        "left_out": _left_out(checkpoint),
        "problems": found,
        "extend": engine.extend,
        "weights": held,
        "memory": {"context": context or config.max_position_embeddings, **asdict(plan), "total": plan.total},
    }
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _show(report, config, plan)
    if found:
        raise SystemExit(1)


def describe(config: ModelConfig) -> str:
    """The network in one line."""
    text = f"{config.num_hidden_layers} layers of {config.hidden_size}"
    if config.moe is not None:
        with_experts = sum(config.moe.moe_layer_freq)
        text += (
            f"; {with_experts} with {config.moe.num_local_experts} experts, {config.moe.num_experts_per_tok} of them "
            "and a shared one for each token"
        )
    if config.index is not None:
        sparse, own = config.index.sparse, len(config.index.own_key_layers)
        num_choosing = sum(config.index.sparse_attention_freq) + own
        text += f"; {num_choosing} read {sparse.index_topk_blocks} blocks of {sparse.index_block_size} tokens"
        if own:
            text += f", {own} of them chosen by their own keys"
    return text


def memory_lines(plan: MemoryPlan, context: int) -> list[str]:
    """The plan, for people."""
    rows = {"weights": plan.weights, "cache": plan.cache, "a step": plan.step, "together": plan.total}
    return [f"memory for {context:,} tokens", *(f"  {name:9} {_size(size):>10}" for name, size in rows.items())]


def _show(report: dict[str, Any], config: ModelConfig, plan: MemoryPlan) -> None:
    tensors = report["tensors"]
    kinds = Counter(tensor["dtype"] for tensor in tensors)
    files = {tensor["file"] for tensor in tensors}
    size = sum(tensor["bytes"] for tensor in tensors)
    click.echo(report["path"])
    click.echo(describe(config))
    click.echo(f"{report['parameters']:,} parameters, {report['active_parameters']:,} active for a token")
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    click.echo(f"{len(tensors)} tensors in {len(files)} files, {_size(size)}: {counted}")
    for reason, count in report["left_out"].items():
        click.echo(f"left out: {count} tensors, {reason}")
    if (branch := report["index_branch"]) is not None:
        click.echo(f"index branch {branch['identity']} from {branch['path']}: {branch['form']}")
    if report["extend"] != "none":
        click.echo(f"trained for {config.max_position_embeddings:,} tokens; past them --extend {report['extend']}")
    click.echo("\n".join(memory_lines(plan, report["memory"]["context"])))
    click.echo(f"weights are held {_HELD[report['weights']]}")
    for problem in report["problems"][:20]:
        click.echo(f"would not load: {problem}")
    if len(report["problems"]) > 20:
        click.echo(f"would not load: {len(report['problems']) - 20} more; --json lists them")


_HELD = {
    "bf16": "in the dtype above",
    "packed": "as the file has them where it is quantised",
    "int8": "in 8 bits",
}


def _branch(sidecar: Sidecar) -> dict[str, Any]:
    return {
        "path": str(sidecar.path),
        "identity": sidecar.identity,
        "form": sidecar.form,
        "made": sidecar.made,
    }


def _tensors(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    return [
        {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "bytes": t.nbytes, "file": Path(t.file).name}
        for t in checkpoint.stored.values()
    ]


def _left_out(checkpoint: Checkpoint) -> dict[str, int]:
    from openm3.model.names import why_skipped

    return dict(Counter(reason for name in checkpoint.stored if (reason := why_skipped(name))))


def _size(num_bytes: float) -> str:
    return format_amount(int(num_bytes), "bytes")
