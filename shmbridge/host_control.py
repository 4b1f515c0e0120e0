"""The host's I/O thread: it alone owns the sockets, and answers while the policy infers."""

from __future__ import annotations

import logging
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import cast

from shmbridge.counters import HostStatistics
from shmbridge.errors import AuthenticationError, ClosedError, RemoteProtocolError, SegmentError, ShmbridgeError
from shmbridge.host_guests import Guest, HostSettings, check_compatible, check_expectations, check_place, describe_client, distinct, printable
from shmbridge.host_worker import ServedPolicy, ServedSession, Worker
from shmbridge.memory.bell import Bell
from shmbridge.memory.naming import socket_path
from shmbridge.memory.sharing import Sharing
from shmbridge.messages import (
    AnyMessage,
    Attached,
    Close,
    Description,
    Hello,
    Ping,
    Query,
    Stop,
    failure_from_exception,
    words_of,
)
from shmbridge.protocol import State
from shmbridge.session import Offer
from shmbridge.surroundings import look_around
from shmbridge.transport.listener import LocalListener
from shmbridge.transport.stream import Credentials
from shmbridge.transport.trust import check_peer
from shmbridge.version import __version__

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.5
_CATCH_UP_ROUNDS = 8
"""More than what a dead client can have left in its socket's buffer; a living one that talks without end must not hold up the others."""


class HostControl:
    """Accepts clients, tells them the host's state, and notices when they are gone.

    Args:
        listener: Where clients knock; closed when this ends.
        worker: Opens, answers and drops sessions.
        policy: Compared with what a client expects, if it says.
        settings: What is allowed to whom.
        on_stop: Called once when this ends, for whatever reason.
    """

    def __init__(self, listener: LocalListener, worker: Worker, policy: ServedPolicy, settings: HostSettings, on_stop: Callable[[], None]) -> None:
        self._listener, self._worker, self._policy = listener, worker, policy
        self._settings, self._on_stop = settings, on_stop
        self._ticked = 0.0
        self._started = time.monotonic()
        self._begun = self._refused = self._lost = 0
        self._guests: list[Guest] = []
        self._jobs: deque[Callable[[], None]] = deque()
        self._wake = Bell()
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake, selectors.EVENT_READ, self._do_jobs)
        self._stopping = False
        self.failure: ShmbridgeError | None = None
        self._reason = "the host is stopping"
        self._thread = threading.Thread(target=self._run, name="shmbridge control", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def post(self, job: Callable[[], None]) -> None:
        """Run ``job`` on the I/O thread. Any thread may call it."""
        self._jobs.append(job)
        self._wake.ring()

    def stop(self, timeout: float) -> bool:
        """Say goodbye to everyone and wait until the sockets are closed; return whether they are."""
        self.post(self._stop)
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Dispose of sessions that the worker opened while this thread was ending. Only once both threads have ended."""
        while self._jobs:
            self._jobs.popleft()()
        self._wake.close()

    def refuse_all(self, error: ShmbridgeError) -> None:
        """Tell everyone why nobody will be served. Any thread may call it."""

        def refuse() -> None:
            for guest in list(self._guests):
                self._refuse(guest, error)

        self.post(refuse)

    def tell_status(self) -> None:
        """Push the host's state to those who wait for a welcome. Any thread may call it."""
        self.post(self._push_status)

    def _run(self) -> None:
        try:
            while not self._stopping:
                for key, _ in self._selector.select(_TICK_SECONDS):
                    self._serve(key)
                self._tick()
        except Exception as error:
            logger.exception("the host's I/O thread broke")
            self.failure = SegmentError(f"the host's I/O thread broke: {type(error).__name__}: {error}")
        finally:
            try:
                for guest in list(self._guests):
                    self._end(guest, self._reason, Close(self._reason))
            finally:
                self._selector.close()
                self._leave()

    def _leave(self) -> None:
        try:
            self._listener.close()
        except OSError as error:  # this process has become another user, or the folder read-only
            logger.warning("host %r cannot remove its name: %s; shmbridge gc can", self._listener.name, error.strerror)
        finally:
            self._on_stop()

    def _serve(self, key: selectors.SelectorKey) -> None:
        if isinstance(key.data, Guest):
            self._converse(key.data)
        else:
            key.data()

    def _do_jobs(self) -> None:
        self._wake.silence()
        while self._jobs:
            self._jobs.popleft()()

    def _stop(self) -> None:
        self._stopping = True

    def _accept(self) -> None:
        accepted = self._listener.accept()
        if accepted is None:
            return
        stream, credentials = accepted
        guest = Guest(stream, credentials.uid)
        self._selector.register(stream, selectors.EVENT_READ, guest)
        self._guests.append(guest)
        self._check_user(guest, credentials)

    def _check_user(self, guest: Guest, credentials: Credentials) -> None:
        try:
            check_peer(credentials, Sharing(self._settings.shm_group), "the client", socket_path(self._listener.name))
        except AuthenticationError as error:
            self._refuse(guest, error)

    def _converse(self, guest: Guest) -> bool:
        """Take in what a guest sent; return whether there was anything."""
        data = None
        try:
            guest.stream.flush()
            data = guest.stream.receive()
            guest.stream.drop_descriptors()  # no client has any to pass
            if data == b"":
                self._lose(guest)
            for message in guest.conversation.receive(data or b""):
                self._react(guest, message)
            guest.note_half_message()
            self._watch(guest)
        except ShmbridgeError as error:
            self._refuse(guest, error)
        except OSError as error:
            self._lost += guest in self._guests and guest.served is not None
            self._end(guest, f"its connection broke: {error.strerror}")
        except Exception as error:  # whatever one guest's message brought about, the others are served on
            logger.exception("a fault of this host while it heard %s", guest.name)
            self._refuse(guest, RemoteProtocolError(f"a fault of the host: {type(error).__name__}: {words_of(error)}"))
        return bool(data)

    def _watch(self, guest: Guest) -> None:
        if guest in self._guests:
            self._selector.modify(guest.stream, selectors.EVENT_READ | (selectors.EVENT_WRITE if guest.stream.wants_to_write else 0), guest)

    def _react(self, guest: Guest, message: AnyMessage) -> None:
        reactions = {Hello: self._hello, Attached: self._attached, Ping: self._ping, Stop: self._stop_asked, Query: self._query, Close: self._goodbye}
        react = cast("Callable[[Guest, AnyMessage], None]", reactions[type(message)])
        react(guest, message)

    def _hello(self, guest: Guest, hello: Hello) -> None:
        guest.name = distinct(printable(hello.client), [other.name for other in self._guests if other is not guest])
        self._admit(hello)
        guest.hello = hello
        self._push_status()
        offer = Offer(hello.observation, hello.num_envs, hello.slots, hello.action)
        self._worker.post(lambda: self._open_on_worker(guest, offer))

    def _admit(self, hello: Hello) -> None:
        """Raise unless this client may be served now."""
        check_compatible(hello)
        if self._worker.ended:
            raise self._worker.failure or ClosedError("this host is stopping")
        self._catch_up()
        check_place(self._listener.name, self._settings.max_sessions, [guest for guest in self._guests if guest.occupies()])
        check_expectations(self._listener.name, hello, self._policy)

    def _catch_up(self) -> None:
        """Take in all that the others sent: one that left or died before this hello must not keep its place."""
        for guest in [guest for guest in self._guests if guest.occupies()]:
            for _ in range(_CATCH_UP_ROUNDS):
                if guest not in self._guests or not self._converse(guest):
                    break

    def _open_on_worker(self, guest: Guest, offer: Offer) -> None:
        if not guest.occupies():
            return  # it left while the policy was loading
        try:
            served = self._worker.open(offer, guest.name, lambda error: self.post(lambda: self._refuse(guest, error)))
        except Exception as error:  # one client's session cannot be opened; the others' go on
            refusal = error if isinstance(error, ShmbridgeError) else _internal(error)
            self.post(lambda: self._refuse(guest, refusal))
            return
        if not guest.occupies():
            # It left during the warm-up: its memory goes before the next one's is reserved. Nobody else knows these names yet.
            served.end.forget_names()
            self._worker.drop(served)
            return
        self.post(lambda: self._welcome(guest, served))

    def _welcome(self, guest: Guest, served: ServedSession) -> None:
        if not guest.occupies():
            self._dispose(served, "it left during the handshake")
            return
        guest.served, guest.since = served, time.monotonic()
        if served.end.ended is not None:  # the worker ended meanwhile
            self._refuse(guest, ClosedError("the host is stopping"))
            return
        welcome, descriptors = served.end.welcome()
        try:
            guest.stream.send(guest.conversation.send(welcome), descriptors)
            self._watch(guest)
        except (OSError, ShmbridgeError) as error:
            self._end(guest, f"the welcome could not be sent: {error}")

    def _attached(self, guest: Guest, message: Attached) -> None:
        served = cast("ServedSession", guest.served)
        served.end.forget_names()
        guest.since = time.monotonic()
        self._begun += 1
        num_envs = served.end.agreement.num_envs
        logger.info("%s begins: %d environment%s", guest.name, num_envs, "" if num_envs == 1 else "s")
        self._worker.post(lambda: self._worker.add(served))

    def _ping(self, guest: Guest, message: Ping) -> None:
        if guest.stream.wants_to_write:
            return  # it does not read what it asked for; answers must not pile up here
        guest.stream.send(guest.conversation.send(self._worker.board.read()))

    def _query(self, guest: Guest, message: Query) -> None:
        guest.stream.send(guest.conversation.send(self._describe(details=message.details)))

    def _describe(self, *, details: bool) -> Description:
        served = [(guest, guest.served) for guest in self._guests if guest.served is not None]
        return Description(
            name=self._listener.name,
            version=__version__,
            pid=os.getpid(),
            uid=os.geteuid(),
            policy=self._policy.name,
            config_digest=self._policy.config_digest,
            status=self._worker.board.read(),
            seconds=time.monotonic() - self._started,
            max_sessions=self._settings.max_sessions,
            clients=[describe_client(guest, session, self._worker.doing(session), details=details) for guest, session in served],
            surroundings=look_around(self._settings.shm_group) if details else None,
        )

    def statistics(self) -> HostStatistics:
        """Return what was counted so far. Any thread may call it."""
        clients = {guest.name: served.session.counters() for guest in list(self._guests) if (served := guest.served) is not None}
        return HostStatistics(time.monotonic() - self._started, self._begun, self._refused, self._lost, clients)

    def _stop_asked(self, guest: Guest, message: Stop) -> None:
        if not self._settings.remote_kill:
            raise AuthenticationError(f"host {self._listener.name!r} was started with --no_remote_kill: clients may not stop it")
        logger.info("%s asked this host to stop", guest.name)
        self._reason = f"{guest.name} asked the host to stop"
        self._stopping = True

    def _goodbye(self, guest: Guest, message: Close) -> None:
        self._end(guest, "it said goodbye")

    def _lose(self, guest: Guest) -> None:
        self._lost += guest in self._guests and guest.served is not None
        after = f" (killed?) after observation {guest.served.session.sequence}" if guest.served is not None else ""
        self._end(guest, f"it is gone without a goodbye{after}")

    def _refuse(self, guest: Guest, error: ShmbridgeError) -> None:
        if guest not in self._guests:
            return
        if guest.served is None:
            self._refused += 1
            logger.warning("%s is refused: %s", guest.name, error)
        else:
            self._lost += 1
        self._end(guest, str(error), failure_from_exception(error))

    def _end(self, guest: Guest, reason: str, last_words: AnyMessage | None = None) -> None:
        if guest not in self._guests:
            return
        self._guests.remove(guest)
        self._selector.unregister(guest.stream)
        try:
            if last_words is not None and guest.conversation.state is not State.ENDED:
                guest.stream.send(guest.conversation.send(last_words))
        except (OSError, ShmbridgeError) as error:
            logger.debug("%s did not hear why: %s", guest.name, error)
        guest.conversation.state = State.ENDED
        guest.stream.close()
        if guest.served is not None:
            self._dispose(guest.served, reason)
            logger.info("%s ended: %s", guest.name, reason)
        guest.served = None  # or what the policy keeps for it would live until a garbage collection

    def _dispose(self, served: ServedSession, reason: str) -> None:
        served.end.mark_lost(reason)
        served.end.forget_names()
        self._worker.post(lambda: self._worker.drop(served))

    def _push_status(self) -> None:
        for guest in list(self._guests):
            if guest.conversation.state is State.NEGOTIATING:
                try:
                    self._ping(guest, Ping())
                except OSError:
                    self._lose(guest)

    def _tick(self) -> None:
        now = time.monotonic()
        is_due = now - self._ticked >= _TICK_SECONDS
        if is_due:
            self._ticked = now
            self._push_status()
            self._note_rates(now)
        for guest in list(self._guests):
            dawdling = guest.dawdling_since
            if dawdling is not None and now - dawdling > self._settings.timeout:
                self._refuse(guest, ClosedError(f"nothing complete was heard for {self._settings.timeout:.1f} s; allow more with --timeout_ms"))
            elif is_due and self._settings.idle_timeout is not None and guest.served is not None:
                self._look_for_idleness(guest.served, self._settings.idle_timeout)

    def _look_for_idleness(self, served: ServedSession, timeout: float) -> None:
        if time.monotonic() - served.last_active > timeout:
            self._worker.post(lambda: self._worker.end_if_idle(served, timeout))

    def _note_rates(self, now: float) -> None:
        for guest in self._guests:
            if guest.served is not None:
                guest.rate.note(now, guest.served.session.sequence)


def _internal(error: Exception) -> ShmbridgeError:
    logger.exception("a session could not be opened")
    return SegmentError(f"the host could not open the session: {type(error).__name__}: {words_of(error)}")
