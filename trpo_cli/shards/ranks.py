"""The processes that train one run together, as `torchrun` starts them: the leader, of rank 0, and those that follow.

Only the leader reads what was typed and writes files. It orders the others to do what it does (`Ranks.order`), and all
ranks hold the same numbers at any time, since what is combined is combined in the same order everywhere.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn import functional

from trpo_cli.errors import ConfigError, TrainingError, UserError

R = TypeVar("R")
MEETING = timedelta(minutes=2)  # within which all processes must have started
NOTICE = 10.0  # seconds after which it says whom it waits for
AT_LEISURE = timedelta(days=365)  # how long a rank may wait for an order: an evaluation of the leader may take long
END = "end"  # the last order
LEADER, OTHER = "rank 0", "another rank"


class Order(NamedTuple):
    """What the leader does next: the name of a method, and its arguments."""

    name: str
    arguments: tuple[Any, ...]


class Ranks:
    """This process among those that train a run."""

    _here: Ranks | None = None

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.agreed: Exception | None = None  # the last error that all ranks raised
        self._orders: dist.ProcessGroup | None = None  # for orders, for which the others may wait long
        self._group: dist.ProcessGroup | None = None  # for work, where no one may
        self._patience = MEETING
        self._is_complete = True  # until one of the others is missed

    @classmethod
    def here(cls) -> Ranks:
        """Of this process, which is alone unless it has met others."""
        return cls._here or cls()

    @classmethod
    def meet(cls) -> Ranks:
        """Meet the other processes that `torchrun` has started.

        Raises `ConfigError` if its environment variables make no sense, and `TrainingError` if the others do not come.
        """
        size, of_machine = _read("WORLD_SIZE"), _read("LOCAL_WORLD_SIZE")
        cls._here = ranks = cls(_read("RANK", below=size), size)
        where = f"{os.environ['MASTER_ADDR']}:{_read('MASTER_PORT', below=65536)}"
        failures: list[Exception] = []

        def begin() -> None:
            try:
                ranks._begin(of_machine)
            except Exception as error:
                failures.append(error)

        meeting = threading.Thread(target=begin, daemon=True)  # in which signals would have to wait
        meeting.start()
        meeting.join(NOTICE)
        if meeting.is_alive():
            print(f"waiting for all {size} processes of this run to meet at {where}", file=sys.stderr, flush=True)
        meeting.join()
        if failures:
            reason = str(failures[0]).splitlines()[0]
            raise TrainingError(f"the {size} processes of this run did not meet at {where}: {reason}") from failures[0]
        return ranks

    def _begin(self, of_machine: int) -> None:
        has_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= of_machine
        if has_gpus:
            torch.cuda.set_device(_read("LOCAL_RANK"))
        store, rank, size = next(rendezvous("env://", timeout=MEETING))
        own = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)  # none of the dead
        backend = "cpu:gloo,cuda:nccl" if has_gpus else "gloo"
        dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=MEETING)
        self.limit(MEETING.total_seconds())

    @property
    def leads(self) -> bool:
        """Whether this is the process that reads and writes."""
        return self.rank == 0

    def limit(self, seconds: float) -> None:
        """Set how long a rank waits for another during work. All ranks call this at once."""
        if self.size > 1:
            self._patience = patience = timedelta(seconds=seconds)
            with self._expecting(OTHER):
                self._orders = dist.new_group(timeout=patience if self.leads else AT_LEISURE)
                self._group = dist.new_group(timeout=patience)

    def order(self, name: str, *arguments: Any) -> None:
        """Have the others call the method too. Does nothing on ranks that do not lead."""
        if self.size > 1 and self.leads and self._is_complete:
            with self._expecting(OTHER):
                dist.broadcast_object_list([Order(name, arguments)], src=0, group=self._orders)

    def await_order(self) -> Order:
        """Wait for what the leader does next."""
        received: list[Any] = [None]
        with self._expecting(LEADER):
            dist.broadcast_object_list(received, src=0, group=self._orders)
        order: Order = received[0]
        return order

    def gather(self, value: Any) -> list[Any]:
        """Return the plain data that each rank has, in order."""
        if self.size == 1:
            return [value]
        data = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        sizes = [int(size) for size in self.gather_tensors(torch.tensor(len(data)))]
        sent = functional.pad(data, (0, max(sizes) - len(data)))
        found = self.gather_tensors(sent)
        return [pickle.loads(one[:size].numpy().tobytes()) for one, size in zip(found, sizes, strict=True)]

    def gather_tensors(self, value: Tensor) -> list[Tensor]:
        """Return the tensors of one shape that each rank has, in order."""
        return [*self.combine(value, torch.stack, value.new_empty(self.size, *value.shape))]

    def combine(self, value: Tensor, by: Callable[[list[Tensor]], Tensor], like: Tensor) -> Tensor:
        """Return on all ranks what `by` makes of the tensors of one shape that each rank has, in order.

        It has the shape of `like`. The leader does it: collectives of gloo take several times as long as messages.
        """
        if value.is_cuda and "nccl" in dist.get_backend_config():
            found = [torch.empty_like(value) for _ in range(self.size)]
            with self._expecting(OTHER):
                dist.all_gather(found, value.contiguous(), group=self._group)
            return by(found)
        own, done = value.cpu().contiguous(), torch.empty(like.shape, dtype=like.dtype)
        if self.leads:
            found = [own, *(torch.empty_like(own) for _ in range(1, self.size))]
            self._exchange(dist.irecv, found)
            done = by(found)
            self._exchange(dist.isend, [done] * self.size)
        else:
            with self._expecting(LEADER):
                dist.send(own, 0, group=self._group)
                dist.recv(done, 0, group=self._group)
        return done.to(value.device)

    def _exchange(self, move: Callable[..., Any], tensors: list[Tensor]) -> None:
        """Receive or send the tensors of all other ranks, where this one leads."""
        works = [move(tensors[rank], rank, group=self._group) for rank in range(1, self.size)]
        for rank, work in enumerate(works, start=1):
            with self._expecting(f"rank {rank}"):
                work.wait()

    def agree(self, error: Exception | None) -> None:
        """Raise the first error that a rank has, on all ranks."""
        if self.size == 1:
            if error is not None:
                raise error
            return
        for rank, other in enumerate(self.gather(_portable(error))):
            if other is not None:
                kind, message = other
                self.agreed = kind(f"rank {rank}: {message}" if rank else message)
                raise self.agreed from (error if rank == self.rank else None)

    def attempt(self, function: Callable[[], R]) -> R:
        """Return what the function returns here. If it fails on any rank, raise the first error on all ranks."""
        done, problem = None, None
        try:
            done = function()
        except Exception as error:
            problem = error
        self.agree(problem)
        return done  # type: ignore[return-value]  # no error was raised

    def expect_same(self, value: int) -> None:
        """Raise `TrainingError` if the number is not the same on all ranks."""
        values = self.gather(value)
        if len({*values}) > 1:
            found = ", ".join(map(str, values))
            raise TrainingError(
                f"the ranks have computed different parameters, with the checksums {found}; they need machines and "
                "versions that are alike"
            )

    def give_up(self) -> None:
        """Expect nothing more of the others."""
        self._is_complete = False

    def leave(self) -> None:
        """Tell the others to end, and leave them."""
        with contextlib.suppress(TrainingError):
            self.order(END)
        dist.destroy_process_group()
        Ranks._here = None

    @contextlib.contextmanager
    def _expecting(self, who: str) -> Iterator[None]:
        """Raise `TrainingError` in place of what torch raises when others are gone or late."""
        try:
            yield
        except (RuntimeError, pickle.UnpicklingError) as error:
            self.give_up()
            said, waited = str(error).lower(), f"{self._patience.total_seconds():g} seconds (rank_timeout)"
            is_late = "timed out" in said or "timeout" in said
            raise TrainingError(f"{who} {f'does not answer within {waited}' if is_late else 'has ended'}") from error


def _read(name: str, below: int | None = None) -> int:
    """Return a number that `torchrun` sets. Raises `ConfigError` if it is none, or not in [0, below)."""
    text = os.environ[name]
    if not text.isdecimal() or (below is not None and int(text) >= below):
        fits = "a whole number" if below is None else f"a whole number below {below}"
        raise ConfigError(f"{name}: got '{text}' in the environment; where torchrun starts a process, it is {fits}")
    return int(text)


def _portable(error: Exception | None) -> tuple[type[Exception], str] | None:
    """The error as what can be raised in another process."""
    if error is None:
        return None
    if isinstance(error, UserError):
        return type(error), str(error)
    return TrainingError, "".join(traceback.format_exception(error)).rstrip()  # a bug, which someone has to find
