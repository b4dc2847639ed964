"""The communication thread: it alone calls the communicator, so that messages move while the main thread computes.

Jobs are done in the order in which they were started, which is the same on every rank. Invariant: a failure in the thread is raised
where the job is waited for, and says what was under way and in which line of the user. May import: errors, compiler.signals, collectives,
timeline.
Read next: data_parallel.py.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ..compiler.signals import Signals
from ..errors import AdjointError, CommunicationError, explain, user_location
from .collectives import all_reduce_in_place
from .communicator import Communicator
from .status import enter, leave
from .timeline import Timeline

LONGEST_SLEEP = 1.0     # seconds without news of the call after which its thread looks by itself
SPINS = 20                                      # looks without a pause inside an exchange: the cores belong to the computation
CHUNK = 2 ** 20         # bytes added up at a time where calls ask between sums: so long may a question have to wait
PATIENCE = 5.0                                  # seconds that a failed call waits for its sums to end


class Abandoned(Exception):
    """The call whose results a job waits for has failed."""


class Job:
    """Something that the communication thread does. `what` says what is under way, for errors; signals: of the call that it follows."""

    def __init__(self, what: str, function: Callable, arguments: Sequence[Any], signals: Signals | None = None):
        self.what, self._function, self._arguments, self._signals = what, function, arguments, signals
        self._done, self._abandoned, self.returned = threading.Event(), threading.Event(), threading.Event()
        self._requests: queue.SimpleQueue[Job] = queue.SimpleQueue()                # of the call that this job follows
        self._request: Job | None = None                    # the one that is looked after now
        self._result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Do it, on the thread that this is called on."""
        try:
            self._result = self._function(*self._arguments)
        except CommunicationError as error:
            self.error = CommunicationError(f"{self.what}: {error}")
            self.error.__cause__ = error
        except BaseException as error:                      # of any kind: the main thread waits
            self.error = error
        if self.error is not None and self._signals is not None and not isinstance(self.error, Abandoned):
            self._signals.cancel()
        self._function = None                               # it may hold the engine, which ends its thread when nobody holds it
        self._done.set()
        self._refuse()

    def fail(self, error: BaseException) -> None:
        """End with the error of a job before this one."""
        self.error = error
        self._done.set()
        self._refuse()

    def wait(self) -> Any:
        """The result, as soon as it is there; raises what was raised in the thread, a CommunicationError with `what` before it."""
        self._done.wait()
        if self.error is not None:
            _place(self.error)
            raise self.error
        return self._result

    def ask(self, what: str, function: Callable, *arguments: Any) -> Any:
        """From inside of the call that this job follows: function(*arguments) on the communication thread, between two sums.

        Raises what ended the job, then or before.
        """
        request = Job(what, function, arguments)
        self._requests.put(request)
        self._signals.ring()
        if self._done.is_set():
            self._refuse()
        return request.wait()

    def end(self) -> None:
        """The call has returned: it asks for nothing more, and everything is finished."""
        self.returned.set()
        self._signals.ring()

    def abandon(self) -> None:
        """What this job waits for will not come: it ends once it has done what had come. Waits for that, but not forever."""
        self._abandoned.set()
        self._signals.ring()
        self._done.wait(PATIENCE)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, or until the call asks something; asleep until there is news of it. Raises Abandoned."""
        seen = self._signals.events
        while True:
            abandoned = self._abandoned.is_set()            # before the look: ranks whose calls fail alike do the same before they end
            if self.asked() or condition():
                return
            if abandoned:
                raise Abandoned
            seen = self._signals.wait(seen, LONGEST_SLEEP)

    def asked(self) -> bool:
        """Whether the call asks something, and waits."""
        with contextlib.suppress(queue.Empty):
            if self._request is None:
                self._request = self._requests.get_nowait()
        return self._request is not None

    def answer(self) -> None:
        """Do what the call asks, or will ask; what that raises ends this job, and is told to the call."""
        self.until(self.returned.is_set)
        request = self._request
        if request is None:
            raise CommunicationError(explain("the calls of other ranks ask for a collective more.", where="",
                                             remedy="Let every rank run the same program."))
        self.what = request.what
        request._result = request._function(*request._arguments)
        self._request = None
        request._done.set()

    def _refuse(self) -> None:
        """Nobody will do what the call asks for now: it gets the error that has ended this job."""
        waiting, self._request = [self._request], None
        with contextlib.suppress(queue.Empty):
            while True:
                waiting.append(self._requests.get_nowait())
        for request in filter(None, waiting):
            request.fail(self.error or Abandoned())


class Engine:
    """One communication thread, started when it is first needed; a world of one rank has none and does everything at once.

    timeout: seconds that an exchange may take, where the communicator has a deadline to set; timeline: where spans are noted.

    >>> from adjoint.distributed.threads import run_threads
    >>> run_threads(2, lambda c: Engine(c).call("the sum", all_reduce_in_place, np.ones(2), c))[1]
    array([2., 2.])
    """

    def __init__(self, communicator: Communicator, *, timeout: float | None = None, timeline: Timeline | None = None):
        self.communicator, self.timeline = communicator, timeline or Timeline(communicator.rank)
        if timeout is not None:
            communicator.seconds = float(timeout)
        if hasattr(communicator, "spins"):
            communicator.spins = SPINS
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, what: str, function: Callable, *arguments: Any) -> Job:
        """Let the thread call function(*arguments) after all that was started before."""
        return self._submit(Job(what, function, arguments))

    def _submit(self, job: Job) -> Job:
        if self.communicator.size == 1:
            job.run()
            return job
        if self._thread is None:
            # The thread holds the queue only, so that an engine nobody needs any more ends it.
            name = f"communication of rank {self.communicator.rank}"
            self._thread = threading.Thread(target=_serve, args=(self._jobs,), daemon=True, name=name)
            self._thread.start()
            weakref.finalize(self, self._jobs.put, None)
        self._jobs.put(job)
        return job

    def call(self, what: str, function: Callable, *arguments: Any) -> Any:
        """function(*arguments) on the thread: its result."""
        return self.start(what, function, *arguments).wait()

    def add_up(self, array: np.ndarray, name: str) -> np.ndarray:
        """On the thread: the sum of an array over all ranks, in place, under a name."""
        enter("all_reduce", name)
        try:
            with self.timeline.span(f"reduce {name}", bytes=array.nbytes):
                return all_reduce_in_place(array, self.communicator)
        finally:
            leave()

    def sum_of(self, array: np.ndarray, name: str) -> Job:
        """Start the sum of an array over all ranks, in place."""
        return self.start(self._all_reduce_of(name), self.add_up, array, name)

    def sum_results(self, signals: Signals, name: Callable[[int], str], *, before: Callable[[], None] | None = None,
                    more: Mapping[int, np.ndarray] = MappingProxyType({}), asks: bool = False) -> Job:
        """Start the sums over all ranks of the arrays that the next call with these signals returns, each as soon as it is finished.

        In place, in their order. name(k): what result k is called; before: called on the thread once the call has begun;
        more: what is added to result k first. If a sum fails, the call is cancelled.
        asks: the call asks for collectives of its own (Job.ask; Job.end behind it), which come first: results are summed in chunks between.
        """
        signals.reset()
        follow = lambda: self._sum_results(job, signals, name, before, more, asks)          # before the thread can ask for the job
        job = Job("", follow, (), signals)
        return self._submit(job)

    def _sum_results(self, job: Job, signals: Signals, name: Callable[[int], str], before: Callable | None,
                     more: Mapping[int, np.ndarray], asks: bool) -> None:
        job.until(lambda: bool(signals.outputs))
        if before is not None:
            job.what = f"rank {self.communicator.rank} of {self.communicator.size}, comparing the programs of all ranks"
            before()
        for number, array in enumerate(signals.outputs):
            if array is None:
                continue
            begin, finished = time.perf_counter_ns(), functools.partial(signals.finished, number)
            for chunk in _chunks(array) if asks else [array]:
                job.what = self._all_reduce_of(name(number))
                (self._agree if asks else Job.until)(job, finished)
                if begin:
                    self.timeline.add(f"wait for {name(number)}", begin, time.perf_counter_ns())
                    begin = 0
                    if number in more:
                        np.add(array, more[number], out=array)
                self.add_up(chunk, name(number))
        while asks:
            job.until(job.returned.is_set)
            if not job.asked():
                break
            job.answer()

    def _agree(self, job: Job, finished: Callable[[], bool]) -> None:
        """Come to the next sum on all ranks together: where the call of one asks something, all answer theirs first.

        Every rank says whether its own asks as soon as it does, or as the result is finished. Calls ask the same things in the same order,
        so one that does not yet will, whatever else it does before. No order of results and questions is taken for granted.
        """
        what = job.what
        while True:
            job.until(finished)
            asked = np.array([job.asked()], np.int64)
            if not all_reduce_in_place(asked, self.communicator, algorithm="tree", combine=np.maximum)[0]:
                return
            job.answer()
            job.what = what

    def _all_reduce_of(self, name: str) -> str:
        return f"rank {self.communicator.rank} of {self.communicator.size}, all_reduce of {name}"


def _serve(jobs: queue.SimpleQueue) -> None:
    """Do jobs until told to stop; after a failure those already started fail too, since other ranks will not take part in them."""
    while (job := jobs.get()) is not None:
        job.run()
        while not isinstance(job.error, Abandoned | None) and not jobs.empty():
            following = jobs.get()
            if following is None:
                return
            following.fail(job.error)


def _chunks(array: np.ndarray) -> list[np.ndarray]:
    """The array in parts of CHUNK bytes, one at least."""
    flat, step = array.reshape(-1), max(1, CHUNK // array.itemsize)
    return [flat[start:start + step] for start in range(0, max(1, flat.size), step)]


def _place(error: BaseException) -> None:
    """Say in the message the line of the user, who waits for what the thread did: the thread could not know it."""
    where = user_location()
    if isinstance(error, AdjointError) and where and "\n  at " not in str(error):
        first, *others = str(error).split("\n")
        error.args = ("\n".join([first, f"  at {where}", *others]),)


def check_same(communicator: Communicator, own: int, sizes: int, where: str, always: int = 0) -> None:
    """Raise CommunicationError on every rank if ranks with equal sizes (a hash of them) have other hashes of their programs.

    always: another hash, of what must be the same for all sizes.

    >>> from adjoint.distributed.threads import run_threads
    >>> run_threads(2, lambda c: check_same(c, 7, 4, "the step"))
    [None, None]
    """
    mine = np.array([own, sizes, always])
    found = all_reduce_in_place(np.concatenate([mine, -mine]), communicator, algorithm="tree", combine=np.maximum)
    same = found[:3] == -found[3:]
    if not same[2] or (same[1] and not same[0]):
        raise CommunicationError(explain(
            f"the ranks trace different programs for {where}: rank {communicator.rank} has hash {own:x}.", where="",
            remedy="Let model, loss and shapes be the same on every rank; a branch on the rank belongs outside of the step, and so does a "
                   "number that depends on the rank."))
