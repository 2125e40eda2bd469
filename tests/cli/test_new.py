from __future__ import annotations

from pathlib import Path

import torch
from click.testing import CliRunner

from openm3.cli.new import new
from openm3.errors import InputError
from openm3.model.weights import load_decoder, open_checkpoint


def test_a_new_checkpoint_loads_and_the_same_seed_gives_the_same(tmp_path: Path) -> None:
    for name, seed in (("one", "3"), ("same", "3"), ("other", "4")):
        result = CliRunner().invoke(new, ["--preset", "tiny", "--seed", seed, str(tmp_path / name)])
        assert (result.exit_code, result.stdout) == (0, f"{tmp_path / name}\n")
    one, same, other = (
        dict(load_decoder(open_checkpoint(tmp_path / name), torch.bfloat16).named_parameters())
        for name in ("one", "same", "other")
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])
    assert one["layers.1.block_sparse_moe.gate.weight"].dtype == torch.float32


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    result = CliRunner().invoke(new, ["--preset", "tiny", str(tmp_path)])
    assert isinstance(result.exception, InputError) and "exists already" in str(result.exception)


def test_the_published_sizes_are_printed_and_nothing_written(tmp_path: Path) -> None:
    result = CliRunner().invoke(new, ["--preset", "m3", str(tmp_path / "m3")])
    assert result.exit_code == 0 and not (tmp_path / "m3").exists()
    assert "426,174,572,928 parameters" in result.stderr
    assert "cache       144.1 GB" in result.stdout


def test_the_published_model_needs_room(tmp_path: Path) -> None:
    result = CliRunner().invoke(new, ["--preset", "m3.1", "--really", str(tmp_path / "m3")])
    assert isinstance(result.exception, InputError) and "free" in str(result.exception)
    assert not (tmp_path / "m3").exists()
