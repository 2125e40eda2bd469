"""Runs a model in several processes: the engine's own, and workers that follow it batch by batch."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import tempfile
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openm3.config import EngineConfig
from openm3.engine.runner import Runner
from openm3.errors import InputError, OpenM3Error
from openm3.kernels.backend import choose_device
from openm3.kernels.paged import PagedBatch
from openm3.model.batch import Batch
from openm3.model.branch import open_model
from openm3.model.parallel import Parallel, check_split
from openm3.model.weights import Checkpoint

_PATIENCE_S = 5.0  # for a worker that is asked to end


def start_runner(checkpoint: Checkpoint, config: EngineConfig) -> Runner:
    """A runner in this process, or in as many as `tensor_parallel` says."""
    if config.tensor_parallel == 1:
        return Runner(checkpoint, config)
    workers = Workers(checkpoint, config)
    try:
        return ParallelRunner(checkpoint, config, workers)
    except BaseException:
        workers.close()
        raise


class Workers:
    """The other processes. They end when this one closes its ends of their pipes, or ends itself, however it does.

    Ctrl-C reaches them too, from the terminal; it is the engine's process that decides, so they ignore it.

    Args:
        checkpoint, config: as in `Runner`.

    Attributes:
        parallel: this process's place, the first.
        device: where its part of the model is.

    Raises:
        InputError: the model can't be split so, or there are fewer GPUs.
        OpenM3Error: a worker ended.
    """

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig) -> None:
        size = config.tensor_parallel
        check_split(checkpoint.config, size)
        device = choose_device(config.device, config.backend)
        if device.type == "cuda" and torch.cuda.device_count() < size:
            raise InputError("tensor_parallel", f"there are {torch.cuda.device_count()} GPUs for {size} processes")
        threads = max(1, torch.get_num_threads() // size)
        context = multiprocessing.get_context("spawn")
        folder = Path(tempfile.mkdtemp(prefix="openm3-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        try:
            for rank in range(1, size):
                here, there = context.Pipe()
                args = (rank, size, folder / "meeting", checkpoint.path, config, device.type, threads, there)
                process = context.Process(target=work, args=args, name=f"openm3-{rank}", daemon=True)
                process.start()
                there.close()  # so that the pipe ends with the process
                self._pipes.append(here)
                self._processes.append(process)
            self.expect()
            self.parallel = Parallel.join(0, size, folder / "meeting", device)
        except BaseException:
            self.close()
            raise
        torch.set_num_threads(threads)  # the cores are shared out

    def expect(self) -> None:
        """Waits until every worker has said that it is ready for what comes next.

        Raises:
            OpenM3Error: one ended instead.
        """
        waiting = list(self._pipes)
        while waiting:
            for pipe in wait(waiting):
                assert isinstance(pipe, Connection)
                try:
                    trouble = pipe.recv()
                except (EOFError, OSError):
                    trouble = ""
                if trouble is not None:
                    raise self.lost(trouble)
                waiting.remove(pipe)

    def tell(self, name: str, *args: Any) -> None:
        """Has every worker call this method of its runner."""
        if not self._pipes:
            raise OpenM3Error("the processes of this model have ended; load it again")
        for pipe in self._pipes:
            try:
                pipe.send((name, args))
            except OSError as error:
                raise self.lost("") from error

    def lost(self, trouble: str) -> OpenM3Error:
        """Ends all workers; the error says which one was lost, where one was."""
        said, ended = [trouble] if trouble else [], []
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            try:
                if pipe.poll(1):
                    said.append(pipe.recv())
            except (EOFError, OSError):
                process.join(1)
                ended.append(f"{process.name} ended with code {process.exitcode}")
        self.close()
        reason = "; ".join(ended or said) or "no answer"
        return OpenM3Error(f"tensor_parallel: a process of the model failed ({reason}); load it again")

    def close(self) -> None:
        """Ends the workers; one that doesn't is killed."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(_PATIENCE_S)
            if process.exitcode is None:
                process.kill()
                process.join()
        self._pipes, self._processes = [], []


class ParallelRunner(Runner):
    """The first of several processes: has its part of the model, tells the others what to run, and has the logits.

    A step runs in a thread of its own: where Ctrl-C ends the waiting for it, it is still computed to its end in all
    processes alike, and the next one comes after it.

    Args:
        checkpoint, config: as in `Runner`.
        workers: the other processes, as they load their parts.
    """

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig, workers: Workers) -> None:
        super().__init__(checkpoint, config, workers.parallel)
        workers.expect()
        self.workers = workers
        self._thread = ThreadPoolExecutor(1, "openm3-parallel")

    def copy_page(self, source: int, target: int) -> None:
        """As in `Runner`, in all processes."""
        self._thread.submit(self._copy_page, source, target).result()

    def shift_pages(self, pages: Sequence[int], shifts: Sequence[int]) -> None:
        """As in `Runner`, in all processes."""
        self._thread.submit(self._shift_pages, pages, shifts).result()

    def run(self, batch: Batch) -> Tensor:
        """As in `Runner`, in all processes.

        Raises:
            OpenM3Error: a process failed; all have ended then.
        """
        return self._thread.submit(self._run, batch).result()

    def _copy_page(self, source: int, target: int) -> None:
        self.workers.tell("copy_page", source, target)
        super().copy_page(source, target)

    def _shift_pages(self, pages: Sequence[int], shifts: Sequence[int]) -> None:
        self.workers.tell("shift_pages", pages, shifts)
        super().shift_pages(pages, shifts)

    def _run(self, batch: Batch) -> Tensor:
        self.workers.tell("follow", *_to_plain(batch))
        try:
            return super().run(batch)
        except RuntimeError as error:  # a sum to which a process did not come
            raise self.workers.lost("") from error


def work(
    rank: int, size: int, meeting: Path, path: Path, config: EngineConfig, device: str, threads: int, pipe: Connection
) -> None:
    """A worker's life: loads its part, then runs what the first process tells it, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    try:
        if device == "cuda":
            torch.cuda.set_device(rank)
        checkpoint = open_model(path, config)
        pipe.send(None)
        runner = Runner(checkpoint, config, Parallel.join(rank, size, meeting, choose_device(device)))
        pipe.send(None)
        while True:
            name, args = pipe.recv()
            if name == "follow":
                runner.follow(_from_plain(*args))
            else:
                getattr(runner, name)(*args)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the first process ended
    except Exception as error:
        try:
            pipe.send(str(error) or type(error).__name__)
        except OSError:
            return
        raise SystemExit(1) from None


def _to_plain(batch: Batch) -> tuple[Any, ...]:
    """A batch as arrays: torch would send each tensor through a file of shared memory."""
    paged = [getattr(batch.paged, field.name) for field in fields(batch.paged)]
    rest = (batch.token_ids_T, batch.logit_rows_L, batch.seen_rows_M, batch.seen_MC)
    return tuple(x.numpy() if isinstance(x, Tensor) else x for x in (*paged, *rest))


def _from_plain(*values: Any) -> Batch:
    given: list[Any] = [torch.from_numpy(value) if isinstance(value, np.ndarray) else value for value in values]
    query_start, context_len, page_table, page_size, token_ids, rows, seen_rows, seen = given
    paged = PagedBatch(query_start, context_len, page_table, page_size)
    return Batch(token_ids, paged, rows, seen_rows, seen)
