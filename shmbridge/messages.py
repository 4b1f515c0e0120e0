"""The messages of the control connection, as msgpack maps with a ``type`` each. No message carries code or pickled data."""

from __future__ import annotations

import enum
import traceback

import msgspec

from shmbridge import errors
from shmbridge.counters import RingStatistics, SessionStatistics
from shmbridge.errors import PolicyRaisedError, RemoteProtocolError, SharedMemoryFullError, ShmbridgeError
from shmbridge.layout import FAILURE_BYTES
from shmbridge.spec import TensorSpec

PROTOCOL_VERSION = 2
MAX_MESSAGE_BYTES = 1 << 20
MAX_SLOTS = 64
MAX_TEXT_CHARS = 100_000


class HostState(str, enum.Enum):
    """What a host is doing, for people; nothing is decided by it."""

    LOADING = "LOADING"
    """The policy is being constructed."""
    WARMING_UP = "WARMING_UP"
    """The first inference for a new shape is running."""
    READY = "READY"
    BUSY = "BUSY"
    """The policy is inferring or resetting."""
    FAILED = "FAILED"
    """The policy could not be constructed; the host tells why and ends."""


class Message(msgspec.Struct, frozen=True, tag_field="type"):
    """Base of all messages. Unknown fields are ignored, so that a later version may add some."""


class Hello(Message, frozen=True, tag="hello"):
    """Client: what I am, what I offer, what I expect."""

    protocol: int
    version: str
    libc: str
    client: str
    num_envs: int
    slots: int
    observation: list[TensorSpec]
    action: list[TensorSpec] | None = None
    policy: str | None = None
    config_digest: str | None = None


class Status(Message, frozen=True, tag="status"):
    """Host: what I am doing now."""

    state: HostState
    seconds: float
    detail: str = ""


class Welcome(Message, frozen=True, tag="welcome"):
    """Host: what was agreed, and the memory. The descriptors of both rings and the doorbell travel beside it."""

    generation: int
    policy: str
    config_digest: str
    observation: list[TensorSpec]
    action: list[TensorSpec]
    horizon: int
    observation_steps: int
    slots: int
    observation_digest: str
    action_digest: str
    semaphores: list[str]


class Failure(Message, frozen=True, tag="failure"):
    """Host: why not. Ends the handshake; inside an action slot, it answers one request."""

    error: str
    text: str
    error_type: str = ""
    traceback: str = ""
    needed: int = 0
    free: int = 0


class Attached(Message, frozen=True, tag="attached"):
    """Client: I opened everything; its names can go."""


class Ping(Message, frozen=True, tag="ping"):
    """Client: what are you doing? Answered by :class:`Status`, also while the policy infers."""


class Stop(Message, frozen=True, tag="stop"):
    """Client: end the whole host. Answered by :class:`Close`, or by :class:`Failure` where the host does not take that."""


class Query(Message, frozen=True, tag="query"):
    """Client: who are you? Answered by :class:`Description`; no session is begun."""

    details: bool = False
    """Whether each client's tensors and rings are wanted too."""


class SessionDescription(msgspec.Struct, frozen=True):
    """What was agreed with one client, and where its slots are."""

    generation: int
    observation: list[TensorSpec]
    action: list[TensorSpec]
    horizon: int
    observation_steps: int
    slots: int
    observation_digest: str
    action_digest: str
    observation_ring: RingStatistics
    action_ring: RingStatistics


class ClientDescription(msgspec.Struct, frozen=True):
    """One client of a host, for people."""

    client: str
    uid: int
    state: str
    """``attaching``, ``idle``, ``waiting`` for its turn, or ``inferring``."""
    num_envs: int
    nbytes: int
    """Shared memory of its rings."""
    seconds: float
    """Since it was welcomed."""
    rate: float
    """Observations per second over the last few seconds."""
    counters: SessionStatistics
    session: SessionDescription | None = None


class Surroundings(msgspec.Struct, frozen=True):
    """Where one side runs, for people who look for what keeps two sides apart. Nothing is decided by it."""

    memory_id: str | None
    """The same wherever the same /dev/shm is mounted; None where that cannot be told."""
    mounts: str
    """The same for all processes of one container; empty where that cannot be told."""
    protocol: int
    version: str
    libc: str
    kernel: str
    python: str
    numpy: str
    uid: int
    gid: int
    groups: list[int]
    shm_group: int | None
    """Whose members this side trusts; None for its own user only."""
    shm_free: int | None
    """Bytes of /dev/shm; None where there is none."""
    shm_total: int | None
    cgroup_free: int | None
    """Bytes that the memory control group allows; None for no limit."""
    cgroup_total: int | None
    cores: float
    """That it may use, also for a part of the time."""


class Description(Message, frozen=True, tag="description"):
    """Host: who I am and whom I serve."""

    name: str
    version: str
    pid: int
    uid: int
    policy: str
    config_digest: str
    status: Status
    seconds: float
    """Since the host was started."""
    max_sessions: int
    clients: list[ClientDescription]
    surroundings: Surroundings | None = None
    """Told where details were asked for; None by versions that know of none."""


class Close(Message, frozen=True, tag="close"):
    """Either side: I leave on purpose."""

    reason: str = ""


AnyMessage = Hello | Status | Welcome | Failure | Attached | Ping | Stop | Query | Description | Close
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)
_failure_decoder = msgspec.json.Decoder(Failure)
_ERRORS = {name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, ShmbridgeError)}


def encode(message: AnyMessage) -> bytes:
    """Return a message's bytes, without its length."""
    return _encoder.encode(message)


def decode(data: bytes) -> AnyMessage:
    """Return the message in ``data``.

    Raises:
        RemoteProtocolError: It is none, or a field is missing or wrong.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"the peer sent something that is no message of protocol {PROTOCOL_VERSION}: {error}") from None


def failure_from_exception(error: Exception) -> Failure:
    """Return the message that tells a client of one of our own errors; any other is the policy's (see :func:`policy_raised`)."""
    ours = error if isinstance(error, ShmbridgeError) else policy_raised(error)
    failure = Failure(type(ours).__name__, plain_text(str(ours)))
    if isinstance(ours, PolicyRaisedError):
        text = failure.text.removesuffix(f"\n\n{plain_text(ours.remote_traceback)}")
        return msgspec.structs.replace(failure, text=text, error_type=ours.error_type, traceback=plain_text(ours.remote_traceback))
    if isinstance(ours, SharedMemoryFullError):
        return msgspec.structs.replace(failure, needed=ours.needed, free=ours.free)
    return failure


def policy_raised(error: BaseException) -> PolicyRaisedError:
    """Return our error for one that the policy's code raised and that is being handled now, with its traceback."""
    kind = type(error).__name__
    told = plain_text("".join(traceback.format_exception(error)).rstrip())
    return PolicyRaisedError(f"the policy raised {kind}: {words_of(error)}\n\n{told}", error_type=kind, remote_traceback=told)


def words_of(error: BaseException) -> str:
    """Return what an exception says, also where its own ``__str__`` fails."""
    try:
        return plain_text(str(error))
    except Exception:  # a policy's exception may fail even at saying what it is
        return "(it cannot say what it is)"


def plain_text(text: str) -> str:
    """Return text that any message can hold: not endless, and what UTF-8 cannot encode (undecodable file names) as escapes."""
    return text[:MAX_TEXT_CHARS].encode("utf-8", "backslashreplace").decode()


def exception_from_failure(failure: Failure) -> ShmbridgeError:
    """Return the exception that a :class:`Failure` tells of. An unknown class becomes RemoteProtocolError."""
    kind = _ERRORS.get(failure.error, RemoteProtocolError)
    if issubclass(kind, PolicyRaisedError):
        text = f"{failure.text}\n\n{failure.traceback}" if failure.traceback else failure.text
        return kind(text, error_type=failure.error_type, remote_traceback=failure.traceback)
    if issubclass(kind, SharedMemoryFullError):
        return kind(failure.text, needed=failure.needed, free=failure.free)
    return kind(failure.text)


def encode_failure(failure: Failure) -> bytes:
    """Return a failure as JSON that fits into ``@failure``; a long traceback loses its beginning, which says least."""
    data = msgspec.json.encode(failure)
    keep = len(failure.traceback)
    while len(data) > FAILURE_BYTES:
        keep = keep // 2
        shorter = f"… {failure.traceback[-keep:]}" if keep else ""
        failure = msgspec.structs.replace(failure, text=failure.text[:2000], error_type=failure.error_type[:200], traceback=shorter)
        data = msgspec.json.encode(failure)
    return data


def decode_failure(data: bytes) -> Failure:
    """Return the failure in ``@failure``.

    Raises:
        RemoteProtocolError: It is none.
    """
    try:
        return _failure_decoder.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise RemoteProtocolError(f"the host reported a failure that cannot be read: {error}") from None
