"""The simulator's side of one session."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType

import numpy as np

from shmbridge.arrays import Arrays
from shmbridge.chunking import ChunkQueues, ChunkRules
from shmbridge.counters import ClientStatistics
from shmbridge.errors import ClosedError, LocalProtocolError, RemoteProtocolError, ShmbridgeError, TimedOutError
from shmbridge.exchange import Exchange, Request
from shmbridge.filling import Filler, LoanedSlot, Observation
from shmbridge.memory.waiting import Deadline
from shmbridge.messages import Status
from shmbridge.policy import PolicySpecs
from shmbridge.reply import Reply
from shmbridge.tasks import TaskChanges, tasks_by_row
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

    def __init__(
        self,
        connection: Connection,
        *,
        offered: Sequence[str],
        batched: bool,
        timeout: float,
        arrays: Arrays,
        rules: ChunkRules = ChunkRules(),
        latest_only: bool = False,
    ) -> None:
        self.agreement: Agreement = connection.agreement
        self.path = connection.path
        self._connection, self._in_use = connection, connection.in_use
        self._exchange = Exchange(connection)
        self._filler = Filler(connection, offered=offered, batched=batched, arrays=arrays)
        self._timeout, self._arrays, self._latest_only = timeout, arrays, latest_only
        self._num_envs = self.agreement.num_envs
        self._shape = (self._num_envs,) if batched else ()
        self._everyone = np.ones(self._num_envs, np.bool_)
        self._episodes = np.ones(self._num_envs, np.uint64)
        self._changes = TaskChanges()
        self._changes.begin(dict.fromkeys(range(self._num_envs), ""))
        self._queues = ChunkQueues(self.specs.action, self._num_envs, self.specs.horizon, rules)
        self._safe_points = _SafePoints()
        self._step = self._dropped = 0

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
        self._safe_points.check()
        tasks = tasks_by_row(env_ids, "" if task is None else task, self._num_envs)
        with self._in_use, self._safe_points:
            self._changes.begin(tasks)
            self._episodes = self._episodes.copy()  # requests under way keep the old one
            self._episodes[list(tasks)] += np.uint64(1)
            self._queues.clear(list(tasks))
            self._filler.begin(list(tasks))

    def instruct(self, env_ids: Sequence[int] | None = None, task: str | Sequence[str] = "") -> None:
        """Give new instructions within running episodes; what is left of these environments' chunks is not played.

        Nothing is sent now: as with :meth:`reset`, it travels with the next observation. A policy that does not take
        instructions within an episode fails on that one and on every later one, until these environments begin new episodes.

        Args:
            env_ids: The environments; None for all.
            task: One text for all of them or one each.

        Raises:
            SpecError, ClosedError: As in :meth:`reset`.
        """
        self._safe_points.check()
        tasks = tasks_by_row(env_ids, task, self._num_envs)
        with self._in_use, self._safe_points:
            self._changes.instruct(tasks)
            self._queues.ask_again(list(tasks))

    def loan(self, *, timeout: float | None = None) -> LoanedSlot:
        """Lend memory for the next observation. The same one until it was sent.

        Args:
            timeout: Seconds; None uses the connection's default.

        Raises:
            TimedOutError: The host still reads all slots. The session is still good.
            PeerLostError: The host is gone.
        """
        deadline = self._deadline(timeout)
        with self._in_use, self._safe_points:
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
        deadline = self._deadline(timeout)
        with self._in_use, self._safe_points:
            wanted = self._queues.wanted(self._step)
            answer = self._refill(observation, wanted, deadline) if wanted.any() else None
            if answer is None:
                self._filler.pass_over(observation)
            actions, made_at = self._queues.pop(self._step)
            self._next_step()
        return self._reply(actions, made_at, None, answer)

    def infer(self, observation: Observation, *, timeout: float | None = None) -> Reply:
        """Return the whole action chunk of every environment for one observation. Arguments and errors as in :meth:`act`.

        Returns:
            One array per action spec, ``(num_envs, horizon, *shape)``.
        """
        deadline = self._deadline(timeout)
        with self._in_use, self._safe_points:
            answer = self._ask(observation, None, deadline)
            self._next_step()
        return self._whole_reply(answer)

    def submit(self, observation: Observation, *, timeout: float | None = None) -> int | None:
        """Send one observation and return its step, without waiting for the answer; :meth:`poll` brings it.

        With ``latest_only``, an observation is sent only if the host has answered the one before; else it is dropped and counted,
        and None is returned. Resets and instructions wait for the next one that is sent.

        Raises:
            LocalProtocolError: As many answers as there are slots have not been polled. Nothing was sent. (Not with ``latest_only``.)
            SpecError, TimedOutError, PeerLostError: As in :meth:`act`.
        """
        deadline = self._deadline(timeout)
        with self._in_use, self._safe_points:
            if self._latest_only and self._exchange.is_awaited:
                self._filler.pass_over(observation)
                self._dropped += 1
                self._next_step()
                return None
            self._make_room()
            self._publish(observation, None, deadline)
            return self._next_step()

    def poll(self, *, timeout: float | None = 0.0) -> Reply | None:
        """Return the answer to the oldest submitted observation, whole chunks as in :meth:`infer`; None if it is not there in time.

        With ``latest_only``, the newest answer; older ones that nobody polled are discarded. None, too, where nothing is awaited.

        Args:
            timeout: Seconds; None uses the connection's default.

        Raises:
            LocalProtocolError: Nothing was submitted. (Not with ``latest_only``.)
            PolicyRaisedError, PeerLostError: As in :meth:`act`.
        """
        deadline = self._deadline(timeout)
        with self._in_use, self._safe_points:
            if self._latest_only:
                self._exchange.abandon_all_but_newest_arrived()
            if not self._exchange.outstanding:
                if self._latest_only:
                    return None
                raise LocalProtocolError("nothing was submitted, so there is nothing to poll")
            answer = self._exchange.take_next(deadline)
        return None if answer is None else self._whole_reply(answer)

    def statistics(self) -> ClientStatistics:
        """Return what was counted so far, and where the rings stand."""
        exchange, rings = self._exchange, self._connection.statistics() or (None, None)
        return ClientStatistics(self._step, exchange.sequence, exchange.rows, self._dropped, exchange.discarded, *rings)

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
        self._safe_points.ended = self._safe_points.ended or "it was closed here"
        self._connection.close()
        self._filler.forget()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        what = f"{self.agreement.policy}, {self._num_envs} environments, observation {self._exchange.sequence}"
        return f"<Client of {self._connection.peer} over {self.path}: {what}>"

    def _deadline(self, timeout: float | None) -> Deadline:
        self._safe_points.check()
        return Deadline(self._timeout if timeout is None else timeout)

    def _next_step(self) -> int:
        """End the current step and return its number."""
        self._filler.remember()
        self._step += 1
        return self._step - 1

    def _refill(self, observation: Observation, wanted: np.ndarray, deadline: Deadline) -> Request:
        """Ask for new chunks of the environments that need one, and queue them."""
        answer = self._ask(observation, None if wanted.all() else wanted, deadline)
        valid = self._valid(answer)
        missing = wanted & ~valid
        if missing.any():
            raise RemoteProtocolError(f"the host left out environments that were asked for: {np.flatnonzero(missing).tolist()}; reconnect")
        self._queues.put(answer.actions, valid, self._step)
        return answer

    def _ask(self, observation: Observation, rows: np.ndarray | None, deadline: Deadline) -> Request:
        """Send one observation and wait for its answer; older ones are nobody's any more, which makes room for this one."""
        self._publish(observation, rows, deadline, alone=True)
        answer = self._exchange.take_next(deadline)
        if answer is None:
            self._exchange.abandon_all()
            raise self._timed_out(f"the action for observation {self._exchange.sequence}", deadline)
        return answer

    def _publish(self, observation: Observation, rows: np.ndarray | None, deadline: Deadline, *, alone: bool = False) -> None:
        """Send one observation; ``alone``, so that nobody waits for the answers to older ones any more."""
        started = time.perf_counter()
        slot = self._filler.fill(observation, deadline)
        if slot is None:
            raise self._timed_out("a free observation slot", deadline)
        write = time.perf_counter() - started
        if not self._exchange.is_idle:
            self._catch_up(deadline, alone=alone)
        self._exchange.publish(slot, rows=rows, episodes=self._episodes, changes=self._changes, step=self._step, write=write)
        if self._changes.waiting:
            self._changes.clear()
        self._filler.spend(observation)

    def _catch_up(self, deadline: Deadline, *, alone: bool) -> None:
        """Drop the answers that nobody waits for, and so make room for another request."""
        if alone:
            self._exchange.abandon_all()
        if not self._exchange.drop_abandoned(deadline):
            raise self._timed_out("an answer that nobody waits for any more, before there is room for another", deadline)

    def _make_room(self) -> None:
        """Refuse to submit more than there are slots; where only the latest counts, the oldest answer gives way."""
        if self._exchange.outstanding < self.agreement.slots:
            return
        if self._latest_only:
            self._exchange.abandon_oldest()
        else:
            raise LocalProtocolError(f"{self._exchange.outstanding} answers are outstanding, as many as there are slots: poll before submitting more")

    def _valid(self, answer: Request) -> np.ndarray:
        """Return whose rows were asked for, were answered, and belong to the episode that is running now."""
        valid = self._everyone if answer.answered is None else answer.answered
        if answer.rows is not None:
            valid = valid & answer.rows
        return valid if answer.episodes is self._episodes else np.asarray(valid & (answer.episodes == self._episodes))

    def _whole_reply(self, answer: Request) -> Reply:
        valid = self._valid(answer)
        return self._reply(answer.actions, answer.step, None if valid is self._everyone else valid, answer)

    def _reply(self, actions: Mapping[str, np.ndarray], step: int | np.ndarray, valid: np.ndarray | None, answer: Request | None) -> Reply:
        """Return a reply in the caller's form: its kind of arrays, with or without the batch axis, aged by the step just made."""
        if not self._shape:
            actions = {name: array[0, ...] for name, array in actions.items()}
            step, valid = (step if isinstance(step, int) else step[0]), (valid if valid is None else valid[0, ...])
        return Reply(self._arrays.result(actions, self.specs.action), self._shape, step, self._step - 1, valid, answer, self.agreement.policy)

    def _timed_out(self, what: str, deadline: Deadline) -> TimedOutError:
        status = self._connection.host_status(Deadline(_STATUS_SECONDS))
        doing = f"{status.state.value} for {status.seconds:.1f} s {status.detail}".rstrip() if status else "silent"
        more = "The session is still good: ask again, or allow more (timeout=, --remote_timeout_ms)"
        return TimedOutError(f"waited {deadline.timeout:.3g} s for {what}; {self._connection.peer} is {doing}. {more}")


class _SafePoints:
    """Marks the session as dead if anything but one of our own errors passes through.

    Those are raised at safe points, while a Ctrl-C may have come between two steps that belong together. The mark is set on the way
    in and taken away on the way out, because another Ctrl-C may come on the way out.

    Attributes:
        ended: Why the session is over; empty while it is not.
    """

    def __init__(self) -> None:
        self.ended = ""
        self._inside = False

    def check(self) -> None:
        """Raise ClosedError once the session is over."""
        if self.ended:
            raise ClosedError(f"the session is over: {self.ended}; reconnect")

    def __enter__(self) -> None:
        if self._inside:
            self.ended = self.ended or "it was interrupted in the middle of an exchange"
        self.check()
        self._inside = True

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None or (issubclass(kind, ShmbridgeError) and not issubclass(kind, RemoteProtocolError)):
            self._inside = False
        else:
            self.ended = self.ended or f"it was interrupted in the middle of an exchange ({kind.__name__})"
