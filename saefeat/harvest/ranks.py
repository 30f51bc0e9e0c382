"""The processes that share one run, as torchrun starts them: who this one is, and what they tell each other.

Every method that is not a property is called by all of them at the same place. A run of one process is `ALONE`: the
same code, and nothing is sent. Only tensors travel, never pickled objects.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saefeat.errors import InputError, SaefeatError

log = logging.getLogger(__name__)
PATIENCE = datetime.timedelta(hours=12)
"""How long a process waits for the others: a shard, or the writing of a large SAE, may lie between two of them."""
ASKING = datetime.timedelta(seconds=5)


class LeftAlone(SaefeatError):
    """Another process of the run ended while this one waited for it."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """rank: which of `size` processes this is. The first one, rank 0, is the one that writes what all share.

    Every method raises LeftAlone if one of the processes has ended.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its sum over the processes, in place, the same bits in all of them."""
        if self.size > 1:
            with _noticing():
                waiting = [torch.distributed.all_reduce(tensor, async_op=True) for tensor in tensors]
                for work in waiting:
                    work.wait()

    def least(self, value: float) -> float:
        """The smallest of the processes' values."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        with _noticing():
            torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MIN)
        return float(tensor)

    def copy(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes what it is in the first process, in place."""
        if self.size > 1:
            with _noticing():
                waiting = [torch.distributed.broadcast(tensor, 0, async_op=True) for tensor in tensors]
                for work in waiting:
                    work.wait()

    def told(self, value: int) -> int:
        """The first process's value."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value)
        self.copy([tensor])
        return int(tensor)

    def gather(self, tensor: Tensor) -> Tensor:
        """The processes' tensors, stacked by rank."""
        if self.size == 1:
            return tensor[None]
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with _noticing():
            torch.distributed.all_gather(parts, tensor)
        return torch.stack(parts)

    def wait(self) -> None:
        """Go on when all processes are here."""
        self.told(0)
        self.add([torch.zeros(1)])


ALONE = Ranks()


@contextlib.contextmanager
def _noticing() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        what = "another process of this run ended; run the same command again to continue"
        raise LeftAlone(what) from error


def place(device: str) -> str:
    """The device of this process: `device`, except that each process of a machine takes a GPU of its own.

    Raises InputError if the machine has fewer GPUs than processes.
    """
    local = os.environ.get("LOCAL_RANK")
    if local is None or device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    if int(local) >= torch.cuda.device_count():
        n = torch.cuda.device_count()
        raise InputError(f"this machine has {n} GPUs and more processes", do=f"pass --nproc-per-node {n}")
    return f"cuda:{local}"


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """The run that torchrun put this process into, ALONE if it was not started by torchrun.

    Tensors travel by gloo from the CPU and by NCCL from GPUs. If a process fails, its own error is raised in it; the
    others, whom it leaves waiting, end without a word and with its exit code, so that one message is seen.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    import torch.distributed as dist

    # imported after the group is there, the defaults of its functions would keep the group, and the threads of gloo,
    # beyond the end of the interpreter, which now and then aborts the process
    import torch.distributed.nn
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=PATIENCE)))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        group_store = dist.PrefixStore("saefeat", store)
        dist.init_process_group(backend, store=group_store, rank=rank, world_size=size, timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        do = "start it with torchrun, or unset WORLD_SIZE"
        raise InputError(f"the processes of this run cannot be joined ({error})", do=do) from error
    log.info("process %d of %d", rank, size)
    try:
        yield Ranks(rank=rank, size=size)
    except Exception as error:
        code = error.exit_code if isinstance(error, SaefeatError) else 1
        first = _first_to_fail(dist.PrefixStore("saefeat-failed", store), f"{rank} {code}")
        if first.split()[0] != str(rank):
            raise SystemExit(int(first.split()[1])) from error
        raise
    else:
        dist.destroy_process_group()


def _first_to_fail(store: torch.distributed.Store, mine: str) -> str:
    """'RANK CODE' of the process that failed first: `mine` if none did. Where the store is gone, rank 0 held it."""
    try:
        store.set_timeout(ASKING)
        return store.compare_set("error", "", mine).decode()
    except (RuntimeError, ValueError):
        return "0 1"
