"""The host's worker thread: it alone touches the policy, the rings and the semaphores."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from shmbridge.errors import ClosedError, PolicyRaisedError, RemoteProtocolError, ShmbridgeError
from shmbridge.memory.bell import Bell
from shmbridge.memory.sharing import PRIVATE, Sharing
from shmbridge.memory.waiting import SPIN_SECONDS, YIELDING_SECONDS
from shmbridge.messages import Failure, HostState, Status, exception_from_failure, failure_from_exception, plain_text, words_of
from shmbridge.policy import Policy
from shmbridge.session import Offer, PolicySession, agree, run_policy_code, warm_up
from shmbridge.transport.base import Agreement
from shmbridge.transport.shm import ShmHostEnd, check_agreement_fits

logger = logging.getLogger(__name__)

_IDLE_SECONDS = 1.0
"""How long to sleep at most when the bell does not ring. Only a net below the wake-ups; nothing depends on it."""


@dataclass(frozen=True)
class ServedPolicy:
    """What a host runs: how to make the policy, and what is said about it."""

    make: Callable[[], Policy]
    name: str
    config_digest: str


class Board:
    """What the host is doing now. Written by the worker, read by anyone: one reference is replaced, never changed."""

    def __init__(self) -> None:
        self._now: tuple[HostState, float, object] = (HostState.LOADING, time.monotonic(), "")

    def write(self, state: HostState, detail: object = "") -> None:
        """Say what begins now. The detail becomes text only when somebody reads it."""
        self._now = (state, time.monotonic(), detail)

    def read(self) -> Status:
        """Return what is being done and for how long."""
        state, since, detail = self._now
        return Status(state, time.monotonic() - since, str(detail))


@dataclass(eq=False)
class ServedSession:
    """A session on the worker's side. ``on_fault`` is called when the client broke the rules."""

    end: ShmHostEnd
    session: PolicySession
    on_fault: Callable[[ShmbridgeError], None]
    last_active: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return f"observation {self.session.sequence + 1} of {self.end.client}"


class Worker:
    """Loads the policy, opens sessions, and answers observations, one of each client in turn.

    Attributes:
        bell: Whoever rings it makes the worker look at its jobs and its rings.
        board: What it is doing.
    """

    def __init__(self, served_policy: ServedPolicy, host_name: str, on_change: Callable[[], None], sharing: Sharing = PRIVATE) -> None:
        self._served_policy = served_policy
        self._host_name, self._sharing = host_name, sharing
        self._on_change = on_change
        self._policy: Policy | None = None
        self._jobs: deque[Callable[[], None]] = deque()
        self._sessions: list[ServedSession] = []
        self._opened: list[ServedSession] = []
        self._answering: ServedSession | None = None
        self._warm: set[tuple[str, str]] = set()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="shmbridge worker", daemon=True)
        self.bell = Bell()
        self.board = Board()
        self._failure: Failure | None = None

    def start(self) -> None:
        self._thread.start()

    def post(self, job: Callable[[], None]) -> None:
        """Run ``job`` on the worker, between two inferences. Any thread may call it."""
        self._jobs.append(job)
        self.bell.ring()

    def stop(self, timeout: float) -> bool:
        """Ask the worker to end and wait; False if the policy does not let it in time."""
        self._stopping = True
        self.bell.ring()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Let go of sessions that were opened or dropped after the worker ended. Only once it has, and nobody posts any more."""
        for served in list(self._opened):
            self.drop(served)
        self.bell.close()

    def open(self, offer: Offer, client: str, on_fault: Callable[[ShmbridgeError], None]) -> ServedSession:
        """Agree with a client, warm the policy up for its shapes, and reserve its memory. On the worker only.

        Raises:
            ShmbridgeError: Why not; nothing stays reserved.
        """
        if self._policy is None:
            raise self.failure or ClosedError("this host is stopping")
        agreement = agree(self._policy, self._served_policy.name, self._served_policy.config_digest, offer)
        check_agreement_fits(agreement)
        self._warm_up_once(agreement)
        session = PolicySession(self._policy, agreement)
        if self._stopping:
            raise ClosedError("this host is stopping")  # or it might end around names that nobody takes away
        # Last, so that the semaphores have names for as short as can be: not while a policy compiles.
        served = ServedSession(ShmHostEnd(agreement, client, self._host_name, self.bell.fileno(), self._sharing), session, on_fault)
        self._opened.append(served)
        return served

    def add(self, served: ServedSession) -> None:
        """Begin to answer a session. On the worker only."""
        self._sessions.append(served)

    def drop(self, served: ServedSession) -> None:
        """End a session and let go of its memory. On the worker only."""
        for sessions in (self._sessions, self._opened):
            if served in sessions:
                sessions.remove(served)
        served.end.close()

    def doing(self, served: ServedSession) -> str:
        """Return what becomes of a session now, in a word. Any thread may call it."""
        if served is self._answering:
            return "inferring"
        if served not in self._sessions:
            return "attaching"
        rings = served.end.statistics()
        return "waiting" if rings is not None and rings[0].full else "idle"

    @property
    def failure(self) -> ShmbridgeError | None:
        """Why the policy could not be loaded, or how it ended this thread; None while that has not happened.

        A new exception each time: one that was raised holds the frames it passed, and is raised for many.
        """
        return None if self._failure is None else exception_from_failure(self._failure)

    @property
    def ended(self) -> bool:
        """Whether no observation will be answered any more."""
        return self._stopping

    def _run(self) -> None:
        try:
            self._policy = run_policy_code(self._served_policy.make)
            self.board.write(HostState.READY)
            self._on_change()
            self._serve()
        except ShmbridgeError as error:
            self._fail(error)
        except BaseException as error:  # such as SystemExit out of the policy: the host must end, and say why
            self._fail(PolicyRaisedError(f"the policy ended its thread by {type(error).__name__}: {words_of(error)}"))
            raise
        finally:
            self._finish()

    def _serve(self) -> None:
        """Do one job and answer each client once, in turn, until stopped: spin a moment when there is nothing to do, then sleep."""
        spin_end = 0.0
        while not self._stopping:
            if has_job := bool(self._jobs):
                self._jobs.popleft()()
            if self._answer_everyone() or has_job:
                spin_end = 0.0
                continue
            now = time.monotonic()
            spin_end = spin_end or now + SPIN_SECONDS
            if not self._sessions or now >= spin_end:
                self._sleep()
                spin_end = 0.0
            elif spin_end - now <= YIELDING_SECONDS:
                os.sched_yield()

    def _fail(self, error: ShmbridgeError) -> None:
        self._failure = failure_from_exception(error)
        self.board.write(HostState.FAILED, plain_text(str(error)).partition("\n")[0])

    def _warm_up_once(self, agreement: Agreement) -> None:
        shapes = (agreement.layouts.observation.digest, agreement.layouts.action.digest)
        if shapes in self._warm or self._policy is None:
            return
        self.board.write(HostState.WARMING_UP)
        self._on_change()
        try:
            warm_up(self._policy, agreement)
            self._warm.add(shapes)
        finally:
            self.board.write(HostState.READY)

    def _answer_everyone(self) -> bool:
        """Answer one observation of each client that has one waiting; return whether any had."""
        answered = False
        for served in tuple(self._sessions):
            if served.end.waiting and not self._stopping:
                self._answer(served)
                answered = True
        return answered

    def _answer(self, served: ServedSession) -> None:
        self._answering = served
        self.board.write(HostState.BUSY, served)
        try:
            observation = served.end.try_take()
            if observation is None:
                return
            action = served.end.try_loan()
            if action is None:
                raise RemoteProtocolError("the client sends observations and does not take the answers")
            served.session.answer(observation, action)
            served.end.publish()
            served.end.release(observation)
        except ClosedError:
            self._sessions.remove(served)  # the client left meanwhile; whoever noticed has posted the drop
        except ShmbridgeError as error:
            self._sessions.remove(served)
            served.on_fault(error)
        finally:
            self._answering = None
            served.last_active = time.monotonic()
            self.board.write(HostState.READY)

    def _sleep(self) -> None:
        poller = select.poll()
        poller.register(self.bell, select.POLLIN)
        if poller.poll(_IDLE_SECONDS * 1000):
            # SYNC POINT: the bell is silenced before the rings are looked at again, so a slot published after that look rings anew.
            self.bell.silence()

    def end_if_idle(self, served: ServedSession, timeout: float) -> None:
        """End a session that asked for nothing for so long. On the worker, because while it answers the session is not idle."""
        if served in self._sessions and not served.end.waiting and time.monotonic() - served.last_active > timeout:
            self._sessions.remove(served)
            served.on_fault(ClosedError(f"nothing was asked for during {timeout:.0f} s (--idle_timeout_s)"))

    def _finish(self) -> None:
        self._stopping = True
        for served in list(self._opened):
            self.drop(served)
        if self._policy is not None:
            try:
                run_policy_code(self._policy.close)
            except ShmbridgeError as error:
                logger.warning("the policy could not be closed: %s", error)
        self._on_change()
