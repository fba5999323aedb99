"""The ranks of a communicator as a mesh uses them: messages whose buffers are reused, agreement, and no hang.

**Agreement.** Before a verb moves anything, every rank says what it was asked for. If one refuses its arguments, or two
were asked for different things, all of them raise: the one that refused its own error, the others `RankError` with that
rank's number and traceback. **Failure.** A rank that fails later, or whose program ends with an exception, prints its
number and traceback and ends all of them (``MPI_Abort``): the others may be waiting for its messages. A rank whose
program ends while others call a verb says so, and they raise.

Every function here that talks to other ranks is collective.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import config

from meshkernels.errors import MeshTypeError, RankError
from meshkernels.kept import physical_memory

if TYPE_CHECKING:
    from mpi4py import MPI

INSTALL = "pip install 'meshkernels[mpi]'"
#: Lets other threads and processes run, where the system has such a call.
yield_core: Callable[[], object] = getattr(os, "sched_yield", lambda: None)
#: Polls, some 50 us, during which a waiting rank keeps its core.
POLLS = 20
#: Bytes of a message that arrives as a whole: a larger one needs both ranks to poll, more than once.
SMALL = 32 << 10
#: Of a small message: polls with a yield, after which a waiting rank sleeps between polls, and for how many seconds.
#: With more ranks than free cores a yield does not let the others run: four ranks on two busy cores decoded a token in
#: 390 ms, with naps in 80 to 190 ms. A product of matrices would take 2 to 3 times as long with them.
YIELDS, NAP = 20, 20e-6
#: Of all messages: those between two ranks arrive in the order in which they were sent.
_TAG = 1
#: Buffers of messages wait for the next ones, up to 1/64 of main memory.
KEPT = physical_memory() // 64


class Ranks:
    """A communicator of its own, with the same ranks as the one it was made from.

    Attributes:
        comm: the communicator.
        rank: the number of this process.
        size: how many there are.
        sent: bytes that this rank has sent to each, by purpose: ``"schedule"`` (moves of a schedule), ``"layout"``
            (operands, results and parts of attention on their way to where they are wanted).
    """

    def __init__(self, comm: MPI.Comm):
        self.comm = comm.Dup()
        self.rank, self.size = comm.rank, comm.size
        self.sent = {purpose: np.zeros(self.size, np.int64) for purpose in ("schedule", "layout")}
        self._free: list[np.ndarray] = []
        self._leaving: list[tuple[Any, np.ndarray | None]] = []
        self._share_cores()
        if self.size > 1:
            self._end_together()

    @staticmethod
    def of(comm: Any) -> Ranks:
        """Those of a communicator, made at the first call.

        Args:
            comm: the communicator.

        Returns:
            The ranks.

        Raises:
            MeshTypeError: no communicator; without mpi4py it says what to install.
        """
        try:
            from mpi4py import MPI
        except ImportError as missing:
            raise MeshTypeError(f"comm is a communicator of mpi4py, which cannot be imported ({missing}): "
                                f"{INSTALL}") from None
        if not isinstance(comm, MPI.Intracomm) or comm == MPI.COMM_NULL:
            raise MeshTypeError(f"comm must be an intracommunicator of mpi4py, not {type(comm).__name__}")
        key = _keyval()
        found: Any = comm.Get_attr(key)
        if found is None:
            found = Ranks(comm)
            comm.Set_attr(key, found)
        return found

    def __deepcopy__(self, memo: Any) -> Ranks:
        return self

    # ------------------------------------------------------------------------------------------ messages

    def send(self, to: int, array: np.ndarray, purpose: str = "schedule") -> None:
        """Send a copy of ``array``; it has left after the next `finish`."""
        self.send_filled(to, array.shape, array.dtype, lambda message: np.copyto(message, array), purpose)

    def send_filled(self, to: int, shape: tuple[int, ...], dtype: np.dtype, fill: Callable[[np.ndarray], None],
                    purpose: str = "schedule") -> None:  # fmt: skip
        """Send what ``fill`` writes into the array of that shape that it is given."""
        nbytes = int(np.prod(shape)) * dtype.itemsize
        buffer = self._buffer(nbytes)
        own = buffer[:nbytes]
        fill(own.view(dtype).reshape(shape))
        self.sent[purpose][to] += nbytes
        self._leaving.append((self.comm.Isend([own, self._bytes], to, _TAG), buffer))

    def send_parts(self, to: int, addresses: np.ndarray, nbytes: int) -> None:
        """Send ``nbytes`` from each address, a message each; they must stay as they are until the next `finish`."""
        self.sent["schedule"][to] += len(addresses) * nbytes
        self._leaving += [(self.comm.Isend(part, to, _TAG), None) for part in self._parts(addresses, nbytes)]

    def send_from(self, to: int, array: np.ndarray, purpose: str = "schedule") -> None:
        """Send an array without a copy: C-contiguous, and it must stay as it is until the next `finish`."""
        self.sent[purpose][to] += array.nbytes
        self._leaving.append((self.comm.Isend([array, self._bytes], to, _TAG), None))

    def receive_into(self, source: int, array: np.ndarray) -> Any:
        """A request for what ``source`` sends next, to be settled before ``array`` is read."""
        return self.comm.Irecv([array, self._bytes], source, _TAG)

    def receive(self, source: int, shape: tuple[int, ...], dtype: np.dtype) -> Incoming:
        """What ``source`` sends next, perhaps before it has come."""
        nbytes = int(np.prod(shape)) * dtype.itemsize
        buffer = self._buffer(nbytes)
        request = self.comm.Irecv([buffer[:nbytes], self._bytes], source, _TAG)
        return Incoming(self, [request], buffer, buffer[:nbytes].view(dtype).reshape(shape))

    def receive_parts(self, source: int, addresses: np.ndarray, nbytes: int, dropped: np.ndarray) -> Incoming:
        """The same, ``nbytes`` to each address; those that are ``dropped`` go to a buffer that nobody reads."""
        buffer = None
        if count := int(dropped.sum()):
            buffer = self._buffer(count * nbytes)
            addresses[dropped] = self.address(buffer) + np.arange(count) * nbytes
        requests = [self.comm.Irecv(part, source, _TAG) for part in self._parts(addresses, nbytes)]
        return Incoming(self, requests, buffer, None)

    @staticmethod
    def address(array: np.ndarray) -> int:
        """Of the first byte, as messages of parts need it."""
        return int(array.ctypes.data)

    def _parts(self, addresses: np.ndarray, nbytes: int) -> list[list[Any]]:
        """Parts of memory, a message each: what is contiguous the receiver copies once, straight from the sender."""
        from mpi4py import MPI

        return [[MPI.memory.fromaddress(address, nbytes), MPI.BYTE] for address in addresses.tolist()]

    def everyones(self, ranks: Sequence[int], mine: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """What each of some ranks has, this one among them; they all call this.

        Args:
            ranks: which.
            mine: C-contiguous.
            shapes: of what each of them has.

        Returns:
            The arrays, that of this rank itself.
        """
        found = [mine if rank == self.rank else np.empty(shape, mine.dtype) for rank, shape in zip(ranks, shapes)]
        others = [(rank, array) for rank, array in zip(ranks, found) if rank != self.rank]
        coming = [(self.receive_into(rank, array), array.nbytes) for rank, array in others]
        for rank, _ in others:
            self.send_from(rank, mine, "layout")
        for request, nbytes in coming:
            self.settle(request, nbytes)
        self.finish()
        return found

    def finish(self) -> None:
        """Until all that was sent has left."""
        for request, buffer in self._leaving:
            self.settle(request)
            self._put_by(buffer)
        self._leaving.clear()
        while sum(map(len, self._free)) > KEPT:
            self._free.remove(max(self._free, key=len))

    def finish_together(self) -> None:
        """The same on all ranks: that a message has arrived its sender may learn only while its receiver polls."""
        self.finish()
        self.settle(self.comm.Ibarrier())

    @staticmethod
    def settle(request: Any, nbytes: int = SMALL + 1) -> None:
        """Wait for a message of so many bytes, soon letting other ranks on this core run: it may depend on them."""
        polls = 0
        while not request.Test():
            polls += 1
            if polls > POLLS + YIELDS and nbytes <= SMALL:
                time.sleep(NAP)
            elif polls > POLLS:
                yield_core()

    def _put_by(self, buffer: np.ndarray | None) -> None:
        if buffer is not None:
            self._free.append(buffer)

    def _buffer(self, nbytes: int) -> np.ndarray:
        """A buffer that no message is in any more, if one fits."""
        for request, buffer in self._leaving[:]:
            if not request.Test():
                break
            self._leaving.pop(0)
            self._put_by(buffer)
        for place, buffer in enumerate(self._free):
            if nbytes <= len(buffer) <= 4 * nbytes + 4096:
                return self._free.pop(place)
        return np.empty(nbytes, np.uint8)

    @property
    def _bytes(self) -> Any:
        from mpi4py import MPI

        return MPI.BYTE

    # ------------------------------------------------------------------------------------------ agreement

    def agree(self, said: str, failure: BaseException | None = None) -> None:
        """Let every rank say what it does.

        Args:
            said: what, the same text on all ranks.
            failure: what keeps this rank from it.

        Raises:
            RankError: another rank fails, or says something else.
        """
        told = "".join(traceback.format_exception(failure)) if failure else said
        mine = np.frombuffer(bytes([failure is not None]) + blake2b(told.encode(), digest_size=15).digest(), np.uint8)
        every = np.empty((self.size, len(mine)), np.uint8)
        self.settle(self.comm.Iallgather(mine, every))
        if not every[:, 0].any() and (every == mine).all():
            return
        texts = self.comm.allgather(told)
        failed = np.flatnonzero(every[:, 0])
        if failure is not None:  # the caller raises it
            return
        if len(failed):
            raise RankError(f"rank {failed[0]} of {self.size} cannot go on; its traceback:\n{texts[failed[0]]}")
        groups: dict[str, list[int]] = {}
        for rank, text in enumerate(texts):
            groups.setdefault(text, []).append(rank)
        raise RankError("the ranks were asked for different things: " + "; ".join(
            f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}: {text}" for text, ranks in groups.items()))

    @contextmanager
    def agreed(self, said: str) -> Iterator[None]:
        """A block of checks that every rank passes, or all of them raise.

        Raises:
            RankError: another rank did not pass, or says something else.
        """
        try:
            yield
        except Exception as failure:
            self.agree(said, failure)
            raise
        self.agree(said)

    @contextmanager
    def fatal(self) -> Iterator[None]:
        """A block in which other ranks wait for this one: an exception ends all of them."""
        try:
            yield
        except BaseException as failure:
            if self.size > 1:
                self._abort(failure)
            raise

    def _abort(self, failure: BaseException) -> None:
        text = "".join(traceback.format_exception(failure))
        print(f"rank {self.rank} of {self.size} fails and ends all of them:\n{text}", file=sys.stderr, flush=True)
        self.comm.Abort(1)

    def _end_together(self) -> None:
        before = sys.excepthook

        def hook(kind: type[BaseException], failure: BaseException, trace: TracebackType | None) -> None:
            before(kind, failure, trace)
            print(f"rank {self.rank} of {self.size} fails and ends all of them", file=sys.stderr, flush=True)
            self.comm.Abort(1)

        sys.excepthook = hook
        atexit.register(self._say_goodbye)

    def _say_goodbye(self) -> None:
        from mpi4py import MPI

        if not MPI.Is_finalized():
            try:
                self.agree("the end of the program")
            except RankError as still:
                print(f"rank {self.rank}: {still}", file=sys.stderr, flush=True)

    def _share_cores(self) -> None:
        """Ranks on one machine share its cores, unless NUMBA_NUM_THREADS says how many threads each has."""
        from mpi4py import MPI

        local = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        here = local.size
        local.Free()
        if here > 1 and "NUMBA_NUM_THREADS" not in os.environ:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            config.NUMBA_NUM_THREADS = max(1, min(config.NUMBA_NUM_THREADS, cores // here))  # type: ignore[attr-defined]


class Incoming:
    """One message on its way to this rank."""

    def __init__(self, ranks: Ranks, requests: list[Any], buffer: np.ndarray | None, array: np.ndarray | None):
        self._ranks, self._requests, self._buffer, self._array = ranks, requests, buffer, array

    @contextmanager
    def arrived(self) -> Iterator[Any]:
        """What the message brings, once it is there; its buffer goes to another message after the block.

        Yields:
            The array; None if its parts have arrived in their places.
        """
        for request in self._requests:
            self._ranks.settle(request)
        yield self._array
        self._ranks._put_by(self._buffer)


_key: list[int] = []


def _keyval() -> int:
    """The attribute of a communicator that holds its `Ranks`."""
    if not _key:
        from mpi4py import MPI

        _key.append(MPI.Comm.Create_keyval())
    return _key[0]
