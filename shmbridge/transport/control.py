"""The client's half of the control connection: first in the caller's thread, then in an I/O thread of its own.

The connection stays open for the session's whole life. Its end is how the client learns that the host died: the kernel closes a
killed process's sockets, across containers too.
"""

from __future__ import annotations

import contextlib
import queue
import select
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

from shmbridge.errors import ClosedError, PeerLostError, RemoteProtocolError, ShmbridgeError, TimedOutError
from shmbridge.memory.bell import Bell
from shmbridge.memory.waiting import Deadline
from shmbridge.messages import AnyMessage, Close, Failure, Ping, Status, Stop, exception_from_failure
from shmbridge.protocol import Conversation, Role, State
from shmbridge.transport.stream import ClosedInChildren, Stream

_CLOSE_SECONDS = 1.0


class Control(ClosedInChildren):
    """A conversation with a host over one stream.

    Attributes:
        ended: Why the session is over, as an exception to raise; None while it lives.
        phase: What its owner is doing, for messages.
        sequence: Number of the observation that its owner sent last, for messages.
    """

    def __init__(self, stream: Stream, peer: str) -> None:
        super().__init__()
        self._stream = stream
        self._peer = peer
        self._conversation = Conversation(Role.CLIENT)
        self._arrived: list[AnyMessage] = []
        self._outbox: queue.SimpleQueue[AnyMessage] = queue.SimpleQueue()
        self._statuses: queue.SimpleQueue[Status] = queue.SimpleQueue()
        self._wake = Bell()
        self._thread: threading.Thread | None = None
        self.ended: ShmbridgeError | None = None
        self.phase, self.sequence = "attaching", 0

    def raise_ended(self) -> NoReturn:
        """Raise why the session is over, with what we were doing.

        Raises:
            PeerLostError, ClosedError, or whatever the host ended the session with.
        """
        ended = self.ended
        assert ended is not None
        if isinstance(ended, PeerLostError):
            text = f"{ended}; we were {self.phase} (observation {self.sequence}). Start the host again and reconnect"
            raise PeerLostError(text, peer=self._peer, phase=self.phase, sequence=self.sequence)
        raise type(ended)(str(ended))

    def say(self, message: AnyMessage) -> None:
        """Send a message; only before :meth:`watch`. Should the peer be gone, whoever listens next learns that, and what it said last."""
        if self._conversation.state is State.ENDED:
            raise PeerLostError(f"{self._peer} ended the handshake", peer=self._peer, phase="shaking hands")
        try:
            self._stream.send(self._conversation.send(message))
        except ConnectionError:
            self._stream.give_up_sending()

    def hear(self, deadline: Deadline, waiting_for: str) -> AnyMessage:
        """Return the host's next message; only before :meth:`watch`.

        Raises:
            TimedOutError: None came in time.
            PeerLostError: The host is gone.
        """
        while not self._arrived:
            if deadline.passed or not self._stream.wait_readable(deadline):
                raise TimedOutError(f"waited {deadline.timeout:.3g} s for {self._peer}, {waiting_for}; allow more with --remote_start_timeout_ms")
            try:
                self._stream.flush()  # a long hello may not have gone out at once
            except ConnectionError:
                self._stream.give_up_sending()
            try:
                self._arrived = self._receive(waiting_for)
            except PeerLostError as error:
                raise PeerLostError(f"{error}; it ended while we were {waiting_for}; look at its log", peer=self._peer, phase=waiting_for) from None
        return self._arrived.pop(0)

    def take_descriptors(self, count: int) -> Sequence[int]:
        """Return the ``count`` descriptors that came beside the last message; the caller must close them."""
        if len(self._stream.descriptors) != count:
            raise RemoteProtocolError(f"{self._peer} passed {len(self._stream.descriptors)} descriptors, expected {count}")
        taken, self._stream.descriptors = self._stream.descriptors, []
        return taken

    def watch(self, on_end: Callable[[], None]) -> None:
        """Hand the socket to an I/O thread, which calls ``on_end`` once when the session is over, whoever ended it."""
        self._thread = threading.Thread(target=self._run, args=(on_end,), name=f"shmbridge control of {self._peer}", daemon=True)
        self._thread.start()

    def status(self, deadline: Deadline) -> Status | None:
        """Ask what the host is doing; None if it does not say in time."""
        self._drop_old_statuses()
        self._post(Ping())
        while self.ended is None and not deadline.passed:
            try:
                return self._statuses.get(timeout=min(0.05, deadline.remaining + 1e-3))
            except queue.Empty:
                continue
        return None

    def stop_host(self, deadline: Deadline) -> None:
        """Ask the host to end and wait for its answer, which ends the conversation either way.

        Raises:
            AuthenticationError: It does not take that from clients.
            TimedOutError: It does not answer.
        """
        self._post(Stop())
        if self._thread is not None:
            self._thread.join(deadline.remaining)
        if self.ended is None:
            raise TimedOutError(f"{self._peer} did not say within {deadline.timeout:.1f} s whether it stops")
        if not isinstance(self.ended, PeerLostError):
            raise self.ended

    def close(self) -> None:
        """Say goodbye and close, within about a second. May be called twice."""
        if self._thread is not None and self._thread.is_alive():
            self._post(Close())
            self._thread.join(_CLOSE_SECONDS)
        self.ended = self.ended or ClosedError(f"the session with {self._peer} was closed here")
        self._stream.close()
        if self._thread is None or not self._thread.is_alive():
            self._wake.close()

    def close_descriptors(self) -> None:
        # The stream closes itself; here the child learns that the session is its parent's.
        self.ended = ClosedError(f"the session with {self._peer} belongs to the parent process; connect anew in this one")

    def _post(self, message: AnyMessage) -> None:
        self._outbox.put(message)
        self._wake.ring()

    def _drop_old_statuses(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._statuses.get_nowait()

    def _receive(self, phase: str) -> list[AnyMessage]:
        data = self._stream.receive()
        if data == b"":
            raise PeerLostError(f"{self._peer} is gone", peer=self._peer, phase=phase)
        return self._conversation.receive(data) if data else []

    def _run(self, on_end: Callable[[], None]) -> None:
        try:
            while self.ended is None:
                self._turn()
        except ShmbridgeError as error:
            self.ended = self.ended or error
        except OSError as error:
            self._hear_last_words()
            self.ended = self.ended or PeerLostError(f"the control connection with {self._peer} broke: {error.strerror}", peer=self._peer)
        finally:
            # The posts of on_end stand for no slot, so those who are woken must find that the session is over.
            self.ended = self.ended or PeerLostError(f"the thread that watches {self._peer} broke", peer=self._peer)
            on_end()

    def _hear_last_words(self) -> None:
        """Read why the host ended the session, if it said so while we were still writing."""
        with contextlib.suppress(ShmbridgeError):
            for message in self._receive("connected"):
                self._react(message)

    def _turn(self) -> None:
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        poller.register(self._stream.fileno(), select.POLLIN | (select.POLLOUT if self._stream.wants_to_write else 0))
        ready = {descriptor for descriptor, _ in poller.poll()}
        if self._wake.fileno() in ready:
            self._wake.silence()
            self._send_outbox()
        self._stream.flush()
        if self._stream.fileno() in ready and self.ended is None:
            for message in self._receive("connected"):
                self._react(message)

    def _send_outbox(self) -> None:
        while not self._outbox.empty():
            message = self._outbox.get_nowait()
            self._stream.send(self._conversation.send(message))
            if isinstance(message, Close):
                self.ended = ClosedError(f"the session with {self._peer} was closed here")
                return

    def _react(self, message: AnyMessage) -> None:
        if isinstance(message, Status):
            self._statuses.put(message)
        elif isinstance(message, Failure):
            self.ended = exception_from_failure(message)
        elif isinstance(message, Close):
            reason = f": {message.reason}" if message.reason else ""
            self.ended = PeerLostError(f"{self._peer} ended the session{reason}", peer=self._peer, phase="connected")
