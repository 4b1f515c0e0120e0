"""Serving a policy: ``serve()`` and the host behind it."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from types import TracebackType

from shmbridge.counters import HostStatistics
from shmbridge.errors import ClosedError, LocalProtocolError
from shmbridge.host_control import HostControl
from shmbridge.host_guests import HostSettings
from shmbridge.host_worker import ServedPolicy, Worker
from shmbridge.memory.sharing import Sharing
from shmbridge.messages import Status
from shmbridge.policy import Policy
from shmbridge.transport.base import Address, parse_address
from shmbridge.transport.listener import LocalListener

GRACE_SECONDS = 0.8
"""How long a policy may go on inferring once the host is told to stop: with the rest of the way out, under a second."""

_LOOK_SECONDS = 0.05


class PolicyHost:
    """One policy, served on this machine's shared memory.

    Sockets are answered by one thread, the policy runs on another; the thread that made the host is free, for signals above
    all. Use it in a ``with`` block.

    Args:
        policy: A policy, or a function that makes one; the function runs on the worker, while clients already see LOADING.
        address: ``shm://NAME``.
        policy_name: What the host says it runs; the class's name by default.
        config_digest: What the host says about the policy's configuration.
        settings: What is allowed to whom.
    """

    def __init__(
        self,
        policy: Policy | Callable[[], Policy],
        address: str = "shm://default",
        *,
        policy_name: str | None = None,
        config_digest: str = "",
        settings: HostSettings = HostSettings(),
    ) -> None:
        make = policy if not isinstance(policy, Policy) else (lambda: policy)
        name = policy_name or (type(policy).__name__ if isinstance(policy, Policy) else str(getattr(policy, "__name__", "policy")))
        self.address: Address = parse_address(address)
        self._settings = settings
        self._policy = ServedPolicy(make, name, config_digest)
        self._stopped = threading.Event()
        self._sharing = Sharing(settings.shm_group)
        self._worker = Worker(self._policy, self.address.name, self._on_change, self._sharing)
        self._control: HostControl | None = None

    def start(self) -> PolicyHost:
        """Take the name and begin to serve. Returns at once; the policy may still be loading.

        Raises:
            SpecError: This process is no member of the group that is to share it.
            HostExistsError: A living host has that name.
            LocalProtocolError: This host was started before.
        """
        if self._control is not None:
            raise LocalProtocolError("a host is started once; make a new one")
        with contextlib.ExitStack() as undo:
            listener = LocalListener(self.address.name, self._sharing)
            undo.callback(listener.close)
            self._control = HostControl(listener, self._worker, self._policy, self._settings, self._stopped.set)
            self._control.start()
            undo.callback(self.close, 0.0)
            self._worker.start()
            undo.pop_all()
        return self

    @property
    def status(self) -> Status:
        """What the host is doing, and for how long."""
        return self._worker.board.read()

    def statistics(self) -> HostStatistics:
        """Return what was counted since the host was started.

        Raises:
            LocalProtocolError: It was not.
        """
        if self._control is None:
            raise LocalProtocolError("this host was not started, so it has counted nothing")
        return self._control.statistics()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the host stops; return whether it did. Signals come through.

        Args:
            timeout: Seconds; None waits as long as the host lives, which is its purpose.

        Raises:
            ShmbridgeError: The policy could not be loaded, or the worker broke; the traceback is in the text.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        # Not Event.wait: an exception of a signal handler in the middle of its Python code leaves a lock half-released, and becomes a RuntimeError.
        while not (stopped := self._stopped.is_set()) and (left := end - time.monotonic()) > 0:
            time.sleep(min(_LOOK_SECONDS, left))
        failure = self._worker.failure or (self._control.failure if self._control else None)
        if failure is not None:
            raise failure
        return stopped

    def close(self, grace: float = GRACE_SECONDS) -> bool:
        """Say goodbye to all clients, remove the name, and end the worker. May be called twice.

        Args:
            grace: Seconds given to an inference under way.

        Returns:
            Whether the policy let the worker end in time. If not, its thread dies with the process.
        """
        if self._control is None:
            return True
        ended = self._control.stop(grace)
        ended &= self._worker.stop(grace)
        if ended:
            self._control.close()
            self._worker.close()
        return ended

    def __enter__(self) -> PolicyHost:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _on_change(self) -> None:
        if self._control is None:
            return
        self._control.tell_status()
        if self._worker.ended:
            self._control.refuse_all(self._worker.failure or ClosedError("the host is stopping"))
            self._stopped.set()


def serve(
    policy: Policy | Callable[[], Policy],
    address: str = "shm://default",
    *,
    policy_name: str | None = None,
    config_digest: str = "",
    max_sessions: int = 1,
    timeout: float = 5.0,
    idle_timeout: float | None = None,
    remote_kill: bool = True,
    shm_group: int | None = None,
) -> PolicyHost:
    """Serve a policy and return the host, which is up; ``with serve(...) as host: host.wait()``.

    Args:
        policy: A policy, or a function that makes one; the function runs on the worker, while clients already see LOADING.
        address: ``shm://NAME``.
        policy_name: What the host says it runs; the class's name by default.
        config_digest: What the host says about the policy's configuration.
        max_sessions: Clients served at a time. A further one is refused by name.
        timeout: Seconds a client may take over its part of the handshake or a half-sent message.
        idle_timeout: Seconds after which a session that asks for nothing is ended; None for never.
        remote_kill: Whether a client may stop this host.
        shm_group: Number of a group whose members are served too; None serves this process's own user only.

    Raises:
        SpecError: This process is no member of that group. Nothing was started.
        HostExistsError: A living host has that name. Nothing was started.
    """
    settings = HostSettings(max_sessions, timeout, idle_timeout, remote_kill, shm_group)
    return PolicyHost(policy, address, policy_name=policy_name, config_digest=config_digest, settings=settings).start()
