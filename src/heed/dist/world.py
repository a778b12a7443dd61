"""The processes that train together, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import groupby
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor

from heed.dist.meeting import met
from heed.dist.together import Together
from heed.dist.watch import GRACE, Watch
from heed.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

BUCKET_BYTES = 32 * 2**20
"""of gradients summed by one message: large enough to hide what a message costs to start, small next to a model"""

PATIENCE = timedelta(days=1)
"""how long a process waits for the others: the first may read and tokenise for hours; `Watch` notices a dead one"""


@dataclass(frozen=True, slots=True)
class World:
    """Which of how many processes this is. Everything is the identity for a process on its own.

    The methods that talk (`sum`, `sum_gradients`, `barrier`, `broadcast_object`, `gather_objects`, `on_first`)
    must be called by every process, in the same order. Inside the work of `on_first` they raise, also in a process on
    its own: the others would never hear of it.

    As a context manager it leaves the others at the end. An error that comes out of the block, or the death of a
    process, ends all of them within a minute, and a `UserError` is told once.
    """

    rank: int = 0
    """of this process, from 0"""
    size: int = 1
    """processes in all"""
    local_rank: int = 0
    """of this process on its machine, which is the index of its GPU"""
    _watch: Watch | None = field(default=None, repr=False, compare=False)
    _inside: list[str] = field(default_factory=list, repr=False, compare=False)
    """the work of `on_first` that is being done"""
    _divided: list[str] = field(default_factory=list, repr=False, compare=False)
    """models of which each process holds a part"""
    together: Together | None = field(default=None, repr=False, compare=False)
    """the processes with which this one shares every forward; None where each takes forwards of its own"""

    @classmethod
    def from_environment(cls, device: str = "cpu", *, init_method: str = "env://") -> World:
        """Join the processes that torchrun started, or be on its own where it did not.

        Args:
            device: `cuda` makes tensors on GPUs travel by NCCL, one GPU per process; those on the CPU use gloo.
            init_method: where the processes meet, as in `torch.distributed.init_process_group`.
        """
        if "WORLD_SIZE" not in os.environ and "RANK" not in os.environ:
            return cls()
        rank, size = _integer("RANK"), _integer("WORLD_SIZE")
        local_rank = _integer("LOCAL_RANK") if "LOCAL_RANK" in os.environ else 0
        if not 0 <= rank < size:
            raise _bad_environment(f"RANK={rank}, WORLD_SIZE={size}", "0 <= RANK < WORLD_SIZE")
        if size == 1:
            return cls(local_rank=local_rank)
        if init_method == "env://" and (missing := [n for n in ("MASTER_ADDR", "MASTER_PORT") if n not in os.environ]):
            raise _bad_environment(f"no {' and no '.join(missing)}", "the address at which the processes meet")
        if init_method == "env://" and not 0 < _integer("MASTER_PORT") < 2**16:
            raise _bad_environment(f"MASTER_PORT={os.environ['MASTER_PORT']}", "a port from 1 to 65535")
        on_gpu = torch.device(device).type == "cuda"
        if on_gpu:
            torch.cuda.set_device(local_rank)
        store = met(init_method, rank, size)
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        host = os.environ.get("MASTER_ADDR", "localhost") if init_method == "env://" else "localhost"
        watch = Watch.meet(rank, size, host, cls(rank=rank, size=size).broadcast_object)
        return cls(rank=rank, size=size, local_rank=local_rank, _watch=watch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif self._watch is not None:
            tells = self._watch.tell(error)
            if isinstance(error, UserError):
                error.is_told = not tells
            if "nccl" not in distributed.get_backend_config():  # whose kernels may be waiting for who is gone
                distributed.destroy_process_group()  # else its threads may abort the process at its exit

    def in_groups(self, size: int) -> World:
        """The same processes, neighbours sharing every forward in groups of `size`, which must divide them.

        Called by every process.
        """
        if size == 1:
            return self
        together = None
        with self.talking("the forming of groups"):
            for first in range(0, self.size, size):
                ranks = list(range(first, first + size))
                group = distributed.new_group(ranks, timeout=PATIENCE)  # by all processes, whosever it is
                if self.rank in ranks:
                    together = Together(self.rank - first, size, group)
        return replace(self, together=together)

    @property
    def group_size(self) -> int:
        """Processes that share a forward."""
        return 1 if self.together is None else self.together.size

    @property
    def num_groups(self) -> int:
        """Of processes that share their forwards: work is dealt to groups, and all of one do the same."""
        return self.size // self.group_size

    @property
    def group(self) -> int:
        """Which group this process is in, from 0."""
        return self.rank // self.group_size

    @property
    def moves_together(self) -> bool:
        """Whether a forward of one process needs one of every other: all must take as many."""
        return bool(self._divided)

    def divide(self, name: str) -> None:
        """From now on processes move together: each holds a part of the model of this name."""
        self._divided.append(name)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def close(self) -> None:
        """Leave the others, at the end of the program."""
        if self._watch is not None:
            self._watch.close()
        if self.size > 1:
            distributed.destroy_process_group()

    @contextmanager
    def talking(self, what: str) -> Iterator[None]:
        """Around everything that all processes do together, so that none waits for one that has ended."""
        if self._inside:
            raise RuntimeError(f"{what} inside {self._inside[-1]}, which the first process does alone")
        if self._watch is not None:
            self._watch.raise_if_ended()
        try:
            yield
        except RuntimeError:
            # A peer that ended breaks the connections of what is being sent, before its last words are read.
            if self._watch is not None:
                self._watch.raise_if_ended(2 * GRACE)
            raise

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Around work in which processes that move together meet: where one has ended, all hear of it, and of no less.

        A layer is put together by messages of PyTorch's own, which break where the other end is gone.
        """
        try:
            yield
        except RuntimeError:
            if self._watch is not None and (self.moves_together or self.together is not None):
                self._watch.raise_if_ended(2 * GRACE)
            raise

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of this tensor over all processes; the tensor itself stays as it is."""
        with self.talking("a sum"):
            if self.size == 1:
                return tensor
            total = tensor.detach().clone(memory_format=torch.contiguous_format)
            distributed.all_reduce(total)
            return total

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Make every process hold the sum of all processes' gradients.

        A process without a gradient for a parameter counts as zeros. A parameter without a gradient on any process
        keeps none, as on a single process: AdamW would decay a parameter whose gradient is zeros.
        """
        with self.talking("a sum of gradients"):
            if self.size > 1:
                self._sum_gradients(parameters)

    def _sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        trainable = [p for p in parameters if p.requires_grad]
        if not trainable:
            return
        num_holders = self.sum(torch.tensor([p.grad is not None for p in trainable], dtype=torch.int32))
        used = [p for p, holders in zip(trainable, num_holders.tolist(), strict=True) if holders]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in used if p.grad is not None]
        for bucket in _buckets(gradients):
            total = torch.cat([gradient.reshape(-1) for gradient in bucket])
            distributed.all_reduce(total)
            for gradient, part in zip(bucket, torch.split(total, [g.numel() for g in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.sum(torch.zeros(1))

    def broadcast_object(self, value: Result) -> Result:
        """The first process's value, for every process. What the others pass is not looked at."""
        with self.talking("a broadcast"):
            if self.size == 1:
                return value
            box = [value]
            distributed.broadcast_object_list(box, src=0)
            return box[0]

    def gather_objects(self, value: Result) -> list[Result]:
        """Every process's value in the order of ranks, for every process."""
        with self.talking("a gathering"):
            if self.size == 1:
                return [value]
            values: list[Any] = [None] * self.size
            distributed.all_gather_object(values, value)
            return values

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This process's share of items dealt in turn: every item goes to exactly one process."""
        return list(items[self.rank :: self.size])

    def on_first(self, work: Callable[[], Result]) -> Result:
        """Do something on the first process only; every process gets its result, or the error it ended with.

        Without this, the others would wait for a first process that met a full disk. The work must not talk: the others
        are waiting for its end.
        """
        with self.talking("work of the first process"):  # which cannot be nested either
            pass
        if not self.is_first:
            told: Result = self.broadcast_object(_Outcome()).take()
            return told
        try:
            result = self._work(work)
        except UserError as error:
            parts = (error.problem, error.where, error.found, error.expected, error.fix)
            self.broadcast_object(_Outcome(user_error=parts))
            raise
        except Exception as error:
            self.broadcast_object(_Outcome(failure=f"{type(error).__name__}: {error}"))
            raise
        self.broadcast_object(_Outcome(result=result))
        return result

    def _work(self, work: Callable[[], Result]) -> Result:
        self._inside.append(getattr(work, "__qualname__", "work"))
        try:
            return work()
        finally:
            self._inside.pop()


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How work on the first process ended, in parts that can travel (an exception may not survive pickling)."""

    result: Any = None
    user_error: tuple[str, str, str, str, str] | None = None
    failure: str | None = None

    def take(self) -> Any:
        if self.user_error is not None:
            problem, where, found, expected, fix = self.user_error
            raise UserError(problem, where=where, found=found, expected=expected, fix=fix)
        if self.failure is not None:
            raise RuntimeError(f"the first process failed: {self.failure}")
        return self.result


def _buckets(gradients: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Cut gradients, in order, into lists of one dtype and device and about `BUCKET_BYTES` each."""
    for _, alike in groupby(gradients, key=lambda g: (g.dtype, g.device)):
        bucket: list[Tensor] = []
        for gradient in alike:
            bucket.append(gradient)
            if sum(g.nbytes for g in bucket) >= BUCKET_BYTES:
                yield bucket
                bucket = []
        if bucket:
            yield bucket


def _integer(name: str) -> int:
    try:
        return int(os.environ[name])
    except KeyError:
        raise _bad_environment(f"no {name}", "RANK and WORLD_SIZE, both or neither") from None
    except ValueError:
        raise _bad_environment(f"{name}={os.environ[name]!r}", "a whole number") from None


def _bad_environment(found: str, expected: str) -> UserError:
    return UserError(
        "the processes that train together cannot find each other",
        where="environment variables that torchrun sets",
        found=found,
        expected=expected,
        fix="torchrun --nproc-per-node 2 --no-python heed sft ..., or alone: unset RANK WORLD_SIZE LOCAL_RANK",
    )
