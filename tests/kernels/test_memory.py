from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch

from openm3.kernels.memory import Memory, empty, place


def test_pieces_are_aligned_and_apart() -> None:
    memory = Memory()
    pieces = [memory.take(size) for size in (1, 100, 70 << 20, 3)]
    for number, piece in enumerate(pieces):
        assert piece.data_ptr() % 64 == 0
        piece.fill_(number)
    assert [int(piece[0]) for piece in pieces] == [0, 1, 2, 3]
    assert [int(piece[-1]) for piece in pieces] == [0, 1, 2, 3]


def test_threads_get_pieces_of_their_own() -> None:
    memory = Memory()
    with ThreadPoolExecutor(4) as pool:
        pieces = list(pool.map(memory.take, [1000] * 200))
    starts = sorted(piece.data_ptr() for piece in pieces)
    assert all(b - a >= 1000 for a, b in pairwise(starts))


def test_cleared_memory_is_given_again() -> None:
    memory = Memory()
    first = [memory.take(size).data_ptr() for size in (10, 65 << 20, 10)]
    memory.clear()
    assert [memory.take(size).data_ptr() for size in (10, 65 << 20, 10)] == first


def test_a_piece_outlives_the_memory() -> None:
    tensor = place(torch.arange(5.0), Memory().take, torch.bfloat16)
    assert tensor.tolist() == [0, 1, 2, 3, 4]
    assert empty((2, 3), torch.int32, Memory().take).shape == (2, 3)
