"""The host's worker thread: it alone touches the policy, the rings and the semaphores."""

from __future__ import annotations

import logging
import math
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from shmbridge.errors import ClosedError, PolicyRaisedError, RemoteProtocolError, ShmbridgeError
from shmbridge.memory.bell import Bell
from shmbridge.memory.waiting import Deadline, spin
from shmbridge.messages import HostState, Status, plain_text, words_of
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
        self._now = (HostState.LOADING, time.monotonic(), "")

    def write(self, state: HostState, detail: str = "") -> None:
        """Say what begins now."""
        self._now = (state, time.monotonic(), detail)

    def read(self) -> Status:
        """Return what is being done and for how long."""
        state, since, detail = self._now
        return Status(state, time.monotonic() - since, detail)


@dataclass(eq=False)
class ServedSession:
    """A session on the worker's side. ``on_fault`` is called when the client broke the rules."""

    end: ShmHostEnd
    session: PolicySession
    on_fault: Callable[[ShmbridgeError], None]
    last_active: float = field(default_factory=time.monotonic)


class Worker:
    """Loads the policy, opens sessions, and answers observations, one of each client in turn.

    Attributes:
        bell: Whoever rings it makes the worker look at its jobs and its rings.
        board: What it is doing.
        failure: Why the policy could not be loaded, or how it ended this thread; None while that has not happened.
    """

    def __init__(self, served_policy: ServedPolicy, host_name: str, on_change: Callable[[], None]) -> None:
        self._served_policy = served_policy
        self._host_name = host_name
        self._on_change = on_change
        self._policy: Policy | None = None
        self._jobs: deque[Callable[[], None]] = deque()
        self._sessions: list[ServedSession] = []
        self._opened: list[ServedSession] = []
        self._warm: set[tuple[str, str]] = set()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="shmbridge worker", daemon=True)
        self.bell = Bell()
        self.board = Board()
        self.failure: ShmbridgeError | None = None

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
        served = ServedSession(ShmHostEnd(agreement, client, self._host_name, self.bell.fileno()), session, on_fault)
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

    @property
    def ended(self) -> bool:
        """Whether no observation will be answered any more."""
        return self._stopping

    def _run(self) -> None:
        try:
            self._policy = run_policy_code(self._served_policy.make)
            self.board.write(HostState.READY)
            self._on_change()
            while not self._stopping:
                if not (self._do_jobs() | self._answer_everyone()):
                    self._wait()
        except ShmbridgeError as error:
            self._fail(error)
        except BaseException as error:  # such as SystemExit out of the policy: the host must end, and say why
            self._fail(PolicyRaisedError(f"the policy ended its thread by {type(error).__name__}: {words_of(error)}"))
            raise
        finally:
            self._finish()

    def _fail(self, error: ShmbridgeError) -> None:
        self.failure = error
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

    def _do_jobs(self) -> bool:
        worked = bool(self._jobs)
        while self._jobs and not self._stopping:
            self._jobs.popleft()()
        return worked

    def _answer_everyone(self) -> bool:
        answered = [self._answer(served) for served in list(self._sessions)]
        return any(answered)

    def _answer(self, served: ServedSession) -> bool:
        try:
            observation = served.end.try_take()
            if observation is None:
                return False
            served.last_active = math.inf
            self.board.write(HostState.BUSY, f"observation {served.session.sequence + 1} of {served.end.client}")
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
        served.last_active = time.monotonic()
        self.board.write(HostState.READY)
        return True

    def _wait(self) -> None:
        if self._sessions and spin(self._has_work, Deadline(_IDLE_SECONDS)):
            return
        poller = select.poll()
        poller.register(self.bell, select.POLLIN)
        if poller.poll(_IDLE_SECONDS * 1000):
            # SYNC POINT: the bell is silenced before the rings are looked at again, so a slot published after that look rings anew.
            self.bell.silence()

    def end_if_idle(self, served: ServedSession, timeout: float) -> None:
        """End a session that asked for nothing for so long. On the worker, which knows whether it was itself that was busy."""
        if served in self._sessions and not served.end.waiting and time.monotonic() - served.last_active > timeout:
            self._sessions.remove(served)
            served.on_fault(ClosedError(f"nothing was asked for during {timeout:.0f} s (--idle_timeout_s)"))

    def _has_work(self) -> bool:
        return bool(self._jobs) or any(served.end.waiting for served in self._sessions)

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
