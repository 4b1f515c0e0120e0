"""How a client finds a host, waits for it, and shakes hands."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any

from shmbridge.arrays import arrays_of_kind
from shmbridge.chunking import ChunkRules, Refill
from shmbridge.client import DEFAULT_TIMEOUT, Client
from shmbridge.errors import HostNotFoundError, PeerLostError, RemoteProtocolError, SpecError
from shmbridge.memory import naming
from shmbridge.memory.mounts import HOW_TO_SHARE, is_engines_own, memory_id, shm_mount
from shmbridge.memory.posix import libc_version
from shmbridge.memory.sharing import Sharing
from shmbridge.memory.waiting import Deadline
from shmbridge.messages import PROTOCOL_VERSION, AnyMessage, Close, Description, Failure, Hello, Query, Status, Welcome, exception_from_failure
from shmbridge.policy import Policy, PolicySpecs
from shmbridge.session import OFFERED, Offer, PolicySession, agree, warm_up
from shmbridge.spec import TensorSpec, as_tuple_of_specs, check_agreement, nearest, specs_from_example, specs_from_space
from shmbridge.transport.base import DEFAULT_SLOTS, Agreement, Connection, OnStatus, parse_address
from shmbridge.transport.control import Control
from shmbridge.transport.local import LocalConnection
from shmbridge.transport.shm import ShmConnection
from shmbridge.transport.stream import Stream, peer_credentials
from shmbridge.transport.trust import check_peer, refused_by_mode
from shmbridge.version import __version__

logger = logging.getLogger(__name__)

DEFAULT_START_TIMEOUT = 300.0
_RETRY_SECONDS = 0.05
_PATIENCE_SECONDS = 0.5
_CLOSED_SECONDS = 2.0
"""How long a socket that is closed to a member of the group may be one that its host is just opening to it, or that a dead host left."""
_DOCTOR = "'shmbridge doctor --peer {}' on both sides says whether they have the same memory"


def connect(
    host: str | Policy,
    *,
    example: Mapping[str, Any] | None = None,
    observation_space: Any = None,
    observation_specs: Iterable[TensorSpec] | None = None,
    action_specs: Iterable[TensorSpec] | None = None,
    num_envs: int | None = None,
    slots: int = DEFAULT_SLOTS,
    timeout: float = DEFAULT_TIMEOUT,
    start_timeout: float = DEFAULT_START_TIMEOUT,
    array: str = "numpy",
    device: Any = None,
    refill: str = Refill.EMPTY.value,
    replan_steps: int | None = None,
    latency_steps: int = 0,
    latest_only: bool = False,
    policy_type: str | None = None,
    config_digest: str | None = None,
    shm_group: int | None = None,
    on_status: OnStatus | None = None,
) -> Client:
    """Open a session with a policy: in a host of this machine, or in this process.

    Args:
        host: ``shm://NAME``, or a policy to run here, in the caller's thread.
        example, observation_space, observation_specs: What can be observed; give exactly one. An example has the batch axis that
            ``num_envs`` says; a gymnasium space and specs describe a single environment.
        action_specs: What the simulator takes, compared with what the policy gives; None takes anything.
        num_envs: Length of the batch axis in front of every array; None means there is none, in or out.
        slots: Observations that may be under way; two suffice for lockstep, three for pipelining.
        timeout: Seconds per request, unless a call says otherwise.
        start_timeout: Seconds for finding the host and for all it does before it is ready.
        array: ``numpy`` or ``torch``: what comes out. With ``torch``, tensors of any device go in.
        device: With ``torch``: where the actions are to lie.
        refill: Who is asked when chunks are used up: ``empty``, only those environments; ``all``, every one, for policies compiled for
            one batch size.
        replan_steps: Let ``act`` play only the first so many actions of each chunk; None for all.
        latency_steps: Let ``act`` take each action from an observation at least so many steps old, as a robot with a slow policy would; the first
            of an episode is answered at once. Counted, not timed, so runs repeat.
        latest_only: Let ``submit`` drop observations while the host is busy with an earlier one.
        policy_type, config_digest: What must run there; None for anything. Of a policy in this process: what the agreement is to say.
        shm_group: Number of a group whose members are trusted to be the host; None trusts this process's own user only.
        on_status: Called with each state the host reports while it is not ready.

    Raises:
        SpecError: Both sides do not fit; the text shows both. Nothing was begun.
        HostNotFoundError, TimedOutError: No host came up, or it was not ready in time.
        AuthenticationError, HostBusyError, SharedMemoryFullError, PolicyError: The host's refusal.
        PeerLostError: The host died or stopped during the handshake. Connect again.
    """
    observation = _offered_specs(example, observation_space, observation_specs, num_envs)
    offer = Offer(observation, 1 if num_envs is None else num_envs, slots, None if action_specs is None else as_tuple_of_specs(action_specs, "action"))
    arrays = arrays_of_kind(array, device)
    rules = ChunkRules(_refill(refill), replan_steps, latency_steps)
    if isinstance(host, Policy):
        connection: Connection = connect_local(host, offer, policy_type, config_digest)
    else:
        name = parse_address(host).name
        connection = connect_shm(name, offer, start_timeout, policy=policy_type, config_digest=config_digest, shm_group=shm_group, on_status=on_status)
    try:
        offered, batched = [spec.name for spec in observation], num_envs is not None
        return Client(connection, offered=offered, batched=batched, timeout=timeout, arrays=arrays, rules=rules, latest_only=latest_only)
    except BaseException:
        connection.close()
        raise


def connect_local(policy: Policy, offer: Offer, policy_name: str | None = None, config_digest: str | None = None) -> LocalConnection:
    """Open a session with a policy in this process. The policy stays the caller's to close.

    Args:
        policy: Made by the caller.
        offer: What the simulator brings.
        policy_name, config_digest: What the agreement says of it; the class's name, and nothing, by default.

    Raises:
        SpecError, PolicyRaisedError: As from a host.
    """
    agreement = agree(policy, policy_name or type(policy).__name__, config_digest or "", offer)
    warm_up(policy, agreement)
    return LocalConnection(agreement, PolicySession(policy, agreement).answer)


def connect_shm(
    name: str,
    offer: Offer,
    start_timeout: float,
    *,
    policy: str | None = None,
    config_digest: str | None = None,
    shm_group: int | None = None,
    on_status: OnStatus | None = None,
) -> ShmConnection:
    """Open a session with the host called ``name`` on this machine.

    Args:
        name: The host's name.
        offer: What the simulator brings.
        start_timeout: Seconds for everything: a host that does not exist yet, one that is loading, one that warms up.
        policy: Name of the policy that must run there; None for any.
        config_digest: Digest of its configuration; None for any.
        shm_group: Group whose members are trusted to be the host, beside our own user; None for nobody else.
        on_status: Called with each state the host reports while it is not ready.

    Raises:
        HostNotFoundError: No host came up in time.
        TimedOutError: The host was not ready in time.
        AuthenticationError: It belongs to another user, who is not trusted here.
        HostBusyError, SpecError, SharedMemoryFullError, PolicyError: The host's refusal.
    """
    deadline = Deadline(start_timeout)
    peer = f"host {name!r}"
    control = Control(_knock(name, deadline, Sharing(shm_group)), peer)
    try:
        control.say(_hello(offer, policy, config_digest))
        welcome = _await_welcome(control, deadline, on_status or (lambda status: None))
        return ShmConnection(control, welcome, _agreement(welcome, offer), peer)
    except BaseException:
        control.close()
        raise


def describe_host(name: str, timeout: float = 1.0, *, details: bool = False, shm_group: int | None = None) -> Description:
    """Ask a host who it is and whom it serves, without a session; with ``details``, also for tensors and rings of each client.

    Raises:
        HostNotFoundError: It is not there.
        TimedOutError: It does not answer.
    """
    deadline = Deadline(timeout)
    control = Control(_knock(name, Deadline(0.0), Sharing(shm_group)), f"host {name!r}")
    try:
        control.say(Query(details))
        answer = control.hear(deadline, "asking who it is")
    finally:
        control.close()
    if isinstance(answer, Failure):
        raise exception_from_failure(answer)
    if not isinstance(answer, Description):
        raise RemoteProtocolError(f"host {name!r} answered a query with {type(answer).__name__}")
    return answer


def _refill(text: str) -> Refill:
    try:
        return Refill(text)
    except ValueError:
        raise SpecError(f"refill={text!r}: expected {' or '.join(repr(one.value) for one in Refill)}") from None


def _offered_specs(example: Any, space: Any, specs: Iterable[TensorSpec] | None, num_envs: int | None) -> tuple[TensorSpec, ...]:
    given = [way for way in (example, space, specs) if way is not None]
    if len(given) != 1:
        raise SpecError("say once what can be observed: example=, observation_space= or observation_specs=")
    if example is not None:
        found = specs_from_example(example, num_envs)
    else:
        found = specs_from_space(space) if specs is None else as_tuple_of_specs(specs, "observation")
    if not found:
        raise SpecError("there is nothing to observe: not a single tensor is offered")
    return found


def _knock(name: str, deadline: Deadline, sharing: Sharing) -> Stream:
    """Return a connection to a host of whom we trust, waiting for one that is still starting."""
    path = naming.socket_path(naming.check_name(name))
    sharing.check_membership()
    told = False
    while (sock := _try_to_connect(path, sharing, deadline)) is None:
        if deadline.passed:
            raise HostNotFoundError(_nobody_there(name, deadline))
        if not told and deadline.timeout - deadline.remaining > _PATIENCE_SECONDS:
            hint = _elsewhere(name) if is_engines_own(shm_mount()) else f"If it runs, {_DOCTOR.format(name)}"
            logger.warning("waiting up to %.0f s for host %r; start it with: shmbridge serve --name %s …. %s", deadline.timeout, name, name, hint)
            told = True
        time.sleep(min(_RETRY_SECONDS, deadline.remaining))
    try:
        check_peer(peer_credentials(sock), sharing, f"host {name!r}", path)
    except BaseException:
        sock.close()
        raise
    return Stream(sock)


def _try_to_connect(path: str, sharing: Sharing, deadline: Deadline) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)  # or a host that was stopped and has a full queue would hold us past any deadline
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN):
            return None  # not there yet; there, but its host is dead; there, but its queue is full
        if isinstance(error, PermissionError):
            if sharing.group is not None and deadline.timeout - deadline.remaining < _CLOSED_SECONDS and not deadline.passed:
                return None
            raise refused_by_mode(path, sharing) from None
        raise
    except BaseException:
        sock.close()
        raise
    return sock


def _nobody_there(name: str, deadline: Deadline) -> str:
    names = _names_here()
    others = [other for other in names if other != name]
    dead = f"{naming.socket_path(name)} is there, but its host is dead; " if name in names else ""
    here = f"in this {naming.SHM} there are: {', '.join(others)}; {nearest(name, others)}" if others else f"this {naming.SHM} has no hosts at all"
    nobody = f"no host called {name!r} came up within {deadline.timeout:.3g} s" if deadline.timeout else f"there is no host called {name!r}"
    return f"{nobody} ({dead}{here.rstrip('; ')}). Start it with: shmbridge serve --name {name} --policy_type …. {_elsewhere(name)}"


def _names_here() -> list[str]:
    try:
        return naming.host_names()
    except OSError:  # there is no such folder, or it cannot be looked into
        return []


def _elsewhere(name: str) -> str:
    """Say what to do about a host that runs in another container, where this one may not see it."""
    told = f"memory id {memory_id() or 'unknown'}"
    if is_engines_own(shm_mount()):
        return f"This {naming.SHM} ({told}) was made by the container engine for this container or pod alone: {HOW_TO_SHARE}; then {_DOCTOR.format(name)}"
    return f"If it runs in another container, {HOW_TO_SHARE}; {_DOCTOR.format(name)}; this one has {told}"


def _hello(offer: Offer, policy: str | None, config_digest: str | None) -> Hello:
    return Hello(
        protocol=PROTOCOL_VERSION,
        version=__version__,
        libc=libc_version(),
        client=f"client {os.getpid()} on {socket.gethostname()}",
        num_envs=offer.num_envs,
        slots=offer.slots,
        observation=list(offer.observation),
        action=None if offer.action is None else list(offer.action),
        policy=policy,
        config_digest=config_digest,
    )


def _await_welcome(control: Control, deadline: Deadline, on_status: OnStatus) -> Welcome:
    state = "saying hello"
    while True:
        message: AnyMessage = control.hear(deadline, state)
        if isinstance(message, Welcome):
            return message
        if isinstance(message, Failure):
            raise exception_from_failure(message)
        if isinstance(message, Status):
            state = f"waiting while it is {message.state.value} (for {message.seconds:.0f} s)"
            on_status(message)
        else:
            reason = message.reason if isinstance(message, Close) else f"it sent {type(message).__name__}"
            raise PeerLostError(f"the host ended the handshake: {reason}; start it again and reconnect", phase=state)


def _agreement(welcome: Welcome, offer: Offer) -> Agreement:
    """Return what a welcome says, checked against what was offered: sizes are computed from this, never taken over."""
    if welcome.slots != offer.slots or welcome.generation < 1:
        raise RemoteProtocolError(f"asked for {offer.slots} slots, the host answered {welcome.slots} in generation {welcome.generation}")
    check_agreement(offer.observation, welcome.observation, left=OFFERED, right="in the host's welcome")
    if offer.action is not None:
        check_agreement(welcome.action, offer.action, left="in the host's welcome", right="taken by the simulator")
    specs = PolicySpecs(welcome.observation, welcome.action, welcome.horizon, welcome.observation_steps)
    return Agreement(welcome.generation, welcome.policy, welcome.config_digest, specs, offer.num_envs, offer.slots)
