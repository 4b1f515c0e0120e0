"""The simulator's side of one session."""

from __future__ import annotations

import operator
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from shmbridge.arrays import Arrays
from shmbridge.chunking import ChunkQueues
from shmbridge.errors import ClosedError, LocalProtocolError, RemoteProtocolError, ShmbridgeError, SpecError, TimedOutError
from shmbridge.exchange import Answer, Exchange
from shmbridge.filling import Filler, LoanedSlot, Observation
from shmbridge.layout import TASK_BYTES
from shmbridge.memory.waiting import Deadline
from shmbridge.messages import Status
from shmbridge.policy import PolicySpecs
from shmbridge.reply import Reply, Timing
from shmbridge.transport.base import Agreement, Connection

DEFAULT_TIMEOUT = 15.0
_STATUS_SECONDS = 0.3
_STOP_SECONDS = 3.0


class Client:
    """One session with a policy. Use it in a ``with`` block; from one thread at a time, but ``close`` from any.

    Attributes:
        agreement: What was agreed with the host.
        path: Which way the observations go, for people.
    """

    def __init__(self, connection: Connection, *, offered: Sequence[str], batched: bool, timeout: float, arrays: Arrays) -> None:
        self.agreement: Agreement = connection.agreement
        self.path = connection.path
        self._connection = connection
        self._exchange = Exchange(connection)
        self._filler = Filler(connection, offered=offered, batched=batched, arrays=arrays)
        self._batched, self._timeout, self._arrays = batched, timeout, arrays
        self._num_envs = self.agreement.num_envs
        self._everyone = np.ones(self._num_envs, np.bool_)
        self._episodes = np.ones(self._num_envs, np.uint64)
        self._resets: dict[int, str] = dict.fromkeys(range(self._num_envs), "")
        self._queues = ChunkQueues(self.specs.action, self._num_envs, self.specs.horizon)
        self._step = 0
        self._ended = ""

    @property
    def specs(self) -> PolicySpecs:
        """What the policy maps."""
        return self.agreement.specs

    def reset(self, env_ids: Sequence[int] | None = None, task: str | Sequence[str] | None = None) -> None:
        """Begin new episodes. Nothing is sent now: it travels with the next observation, ordered with it, and merges until then.

        Args:
            env_ids: The environments; None for all.
            task: One text for all of them or one each; None for none.

        Raises:
            SpecError: An environment does not exist, or a text is longer than 256 bytes. Nothing changed.
            ClosedError: The session is over.
        """
        rows = list(range(self._num_envs)) if env_ids is None else _env_ids(env_ids, self._num_envs)
        tasks = [task or ""] * len(rows) if task is None or isinstance(task, str) else list(task)
        _check_tasks(tasks, len(rows))
        with _SafePoints(self):
            self._resets.update(zip(rows, tasks, strict=True))
            self._episodes[rows] += np.uint64(1)
            self._queues.clear(rows)

    def loan(self, *, timeout: float | None = None) -> LoanedSlot:
        """Lend memory for the next observation. The same one until it was sent.

        Args:
            timeout: Seconds; None uses the connection's default.

        Raises:
            TimedOutError: The host still reads all slots. The session is still good.
            PeerLostError: The host is gone.
        """
        deadline = self._deadline(timeout)
        with _SafePoints(self):
            loaned = self._filler.loan(deadline)
            if loaned is None:
                raise self._timed_out("a free observation slot", deadline)
            return loaned

    def act(self, observation: Observation, *, timeout: float | None = None) -> Reply:
        """Return the next action of every environment, asking the policy only for those whose chunk is used up.

        Args:
            observation: One value per observation spec, flat or nested, ``(num_envs, *shape)``; or a loaned slot, which is spent.
            timeout: Seconds for the whole call; None uses the connection's default.

        Returns:
            One array per action spec, ``(num_envs, *shape)``. ``timing`` is None if no environment needed a chunk.

        Raises:
            SpecError: A value does not conform. Nothing was sent.
            TimedOutError: No answer in time. The session is still good; the late answer will be discarded.
            PolicyRaisedError: The policy failed on this observation. The session is still good.
            PeerLostError: The host is gone. Reconnect.
        """
        with _SafePoints(self):
            empty = self._queues.empty
            answer = self._refill(observation, empty, self._deadline(timeout)) if empty.any() else None
            if answer is None:
                self._filler.pass_over(observation)
            actions, step = self._queues.pop()
            self._step += 1
        return self._reply(actions, step, self._everyone, answer)

    def infer(self, observation: Observation, *, timeout: float | None = None) -> Reply:
        """Return the whole action chunk of every environment for one observation. Arguments and errors as in :meth:`act`.

        Returns:
            One array per action spec, ``(num_envs, horizon, *shape)``.
        """
        with _SafePoints(self):
            answer = self._ask(observation, self._everyone, self._deadline(timeout))
            self._step += 1
        return self._whole_reply(answer)

    def submit(self, observation: Observation, *, timeout: float | None = None) -> int:
        """Send one observation and return its step, without waiting for the answer; :meth:`poll` brings it.

        Raises:
            LocalProtocolError: As many answers as there are slots have not been polled. Nothing was sent.
            SpecError, TimedOutError, PeerLostError: As in :meth:`act`.
        """
        with _SafePoints(self):
            if self._exchange.outstanding >= self.agreement.slots:
                raise LocalProtocolError(f"{self._exchange.outstanding} answers are outstanding, as many as there are slots: poll before submitting more")
            self._publish(observation, self._everyone, self._deadline(timeout))
            self._step += 1
        return self._step - 1

    def poll(self, *, timeout: float | None = 0.0) -> Reply | None:
        """Return the answer to the oldest submitted observation, whole chunks as in :meth:`infer`; None if it is not there in time.

        Args:
            timeout: Seconds; None uses the connection's default.

        Raises:
            LocalProtocolError: Nothing was submitted.
            PolicyRaisedError, PeerLostError: As in :meth:`act`.
        """
        with _SafePoints(self):
            if not self._exchange.outstanding:
                raise LocalProtocolError("nothing was submitted, so there is nothing to poll")
            answer = self._exchange.take_next(self._deadline(timeout))
        return None if answer is None else self._whole_reply(answer)

    def ping(self, *, timeout: float = 1.0) -> Status | None:
        """Ask what the host is doing; answered while the policy infers. None if there is no answer in time.

        Raises:
            PeerLostError: The host is gone.
        """
        return self._connection.host_status(Deadline(timeout))

    def stop_host(self) -> None:
        """Ask the host to end, and close this session.

        Raises:
            AuthenticationError: The host does not let clients stop it.
        """
        try:
            self._connection.stop_host(Deadline(_STOP_SECONDS))
        finally:
            self.close()

    def close(self) -> None:
        """End the session. A slot still lent goes back with it. Returns within about a second; may be called twice."""
        self._ended = self._ended or "it was closed here"
        self._filler.forget()
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        what = f"{self.agreement.policy}, {self._num_envs} environments, observation {self._exchange.sequence}"
        return f"<Client of {self._connection.peer} over {self.path}: {what}>"

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._timeout if timeout is None else timeout)

    def _refill(self, observation: Observation, empty: np.ndarray, deadline: Deadline) -> Answer:
        """Ask for new chunks of the environments whose queue is empty, and queue them."""
        answer = self._ask(observation, empty, deadline)
        valid = self._valid(answer)
        if (empty & ~valid).any():
            raise RemoteProtocolError(f"the host left out environments that were asked for: {np.flatnonzero(empty & ~valid).tolist()}; reconnect")
        self._queues.put(answer.actions, valid, self._step)
        return answer

    def _ask(self, observation: Observation, rows: np.ndarray, deadline: Deadline) -> Answer:
        """Send one observation and wait for its answer; older ones are nobody's any more, which makes room for this one."""
        with _SafePoints(self):
            self._exchange.abandon(self._exchange.sequence)
            self._publish(observation, rows, deadline)
            answer = self._exchange.take_next(deadline)
            if answer is None:
                self._exchange.abandon(self._exchange.sequence)
                raise self._timed_out(f"the action for observation {self._exchange.sequence}", deadline)
            return answer

    def _publish(self, observation: Observation, rows: np.ndarray, deadline: Deadline) -> None:
        if not self._exchange.drop_abandoned(deadline):
            raise self._timed_out("an answer that nobody waits for any more, before there is room for another", deadline)
        started = time.perf_counter()
        slot = self._filler.fill(observation, deadline)
        if slot is None:
            raise self._timed_out("a free observation slot", deadline)
        write = time.perf_counter() - started
        self._exchange.publish(slot, rows=rows, episodes=self._episodes, resets=self._resets, step=self._step, write=write)
        self._resets.clear()
        self._filler.spend(observation)

    def _valid(self, answer: Answer) -> np.ndarray:
        return np.asarray(answer.rows & (answer.episodes == self._episodes))

    def _whole_reply(self, answer: Answer) -> Reply:
        step = np.full(self._num_envs, answer.request.step, np.int64)
        return self._reply(answer.actions, step, self._valid(answer), answer)

    def _reply(self, actions: Mapping[str, np.ndarray], step: np.ndarray, valid: np.ndarray, answer: Answer | None) -> Reply:
        """Return a reply in the caller's form: its kind of arrays, with or without the batch axis, aged by the step just made."""
        place: Any = ... if self._batched else (0, ...)
        read = {spec.name: self._arrays.read(actions[spec.name][place], spec) for spec in self.specs.action}
        age = self._step - 1 - step
        timing: Timing | None = answer.timing if answer else None
        info = {"sequence": answer.request.sequence, "policy": self.agreement.policy} if answer else {}
        return Reply(self._arrays.result(read), step[place], age[place], valid[place], timing, info)

    def _timed_out(self, what: str, deadline: Deadline) -> TimedOutError:
        status = self._connection.host_status(Deadline(_STATUS_SECONDS))
        doing = f"{status.state.value} for {status.seconds:.1f} s {status.detail}".rstrip() if status else "silent"
        more = "The session is still good: ask again, or allow more (timeout=, --remote_timeout_ms)"
        return TimedOutError(f"waited {deadline.timeout:.3g} s for {what}; {self._connection.peer} is {doing}. {more}")


class _SafePoints:
    """Marks the session as dead if anything but one of our own errors passes through.

    Those are raised at safe points, while a Ctrl-C may have come between two steps that belong together.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def __enter__(self) -> None:
        if self._client._ended:
            raise ClosedError(f"the session is over: {self._client._ended}; reconnect")

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is not None and (not issubclass(kind, ShmbridgeError) or issubclass(kind, RemoteProtocolError)):
            self._client._ended = f"it was interrupted in the middle of an exchange ({kind.__name__})"


def _env_ids(env_ids: Sequence[int], num_envs: int) -> list[int]:
    try:
        # A mask would pass as the numbers 0 and 1, and reset the wrong environments.
        rows = [operator.index(row) for row in env_ids if not isinstance(row, bool | np.bool_)]
    except TypeError:
        raise SpecError(f"env_ids must be whole numbers, found {env_ids!r}") from None
    if len(rows) != len(env_ids):
        raise SpecError("env_ids are numbers, not a mask: pass np.flatnonzero(mask)")
    for row in rows:
        if not 0 <= row < num_envs:
            raise SpecError(f"there is no environment {row}: they are numbered 0 to {num_envs - 1}")
    return rows


def _check_tasks(tasks: Sequence[str], count: int) -> None:
    if len(tasks) != count:
        raise SpecError(f"{len(tasks)} tasks for {count} environments: give one text for all or one each")
    for text in tasks:
        if not isinstance(text, str):
            raise SpecError(f"a task is a text, found {text!r}")
        if len(text.encode()) > TASK_BYTES or "\0" in text:
            raise SpecError(f"a task may have at most {TASK_BYTES} bytes in UTF-8 and no NUL; this one has {len(text.encode())}: {text[:40]!r}")
