"""Every error this library raises on purpose.

A message says whose fault it is, what was expected, what was found, and the command or flag that mends it. Each class also
derives from the built-in exception a caller would expect, so ``except TimeoutError`` works without knowing this module. All of
them survive pickling: one positional message, everything else in attributes.
"""

from __future__ import annotations


class ShmbridgeError(Exception):
    """Base of every error raised on purpose by this library."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)


class SpecError(ShmbridgeError, ValueError):
    """A value, or two descriptions of values, do not agree. Nothing was sent."""


class SegmentError(ShmbridgeError):
    """A block of shared memory cannot be used."""


class LayoutMismatchError(SegmentError):
    """The two sides computed different byte layouts: they run different versions, or one of them is faulty."""


class SegmentNotReadyError(SegmentError):
    """The memory or a semaphore that the peer named is missing or unfinished."""


class SharedMemoryFullError(SegmentError, OSError):
    """There is too little shared memory, or too little of what the control group allows. Nothing was reserved.

    Attributes:
        needed: Bytes that were asked for; 0 where unknown.
        free: Bytes that were free; 0 where unknown.
    """

    def __init__(self, message: str = "", *, needed: int = 0, free: int = 0) -> None:
        super().__init__(message)
        self.needed = needed
        self.free = free


class HostNotFoundError(ShmbridgeError, FileNotFoundError):
    """No host answers at that address."""


class HostExistsError(ShmbridgeError, FileExistsError):
    """A living host already has that name."""


class HostBusyError(ShmbridgeError):
    """The host is there but serves as many clients as it takes. Try again when one has left."""


class ProtocolError(ShmbridgeError):
    """The rules of the conversation were broken; the subclasses say by whom."""


class LocalProtocolError(ProtocolError):
    """Our own caller broke the rules: a call out of order or with a spent object. The session is still good."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules: another version, or a fault of its own. The session is dead."""


class AuthenticationError(ShmbridgeError):
    """The peer is not who it must be: another user, or no proof of the shared token."""


class TimedOutError(ShmbridgeError, TimeoutError):
    """A deadline passed. Nothing was consumed, and the session is still good."""


class ClosedError(ShmbridgeError):
    """This side closed the object earlier."""


class PeerLostError(ShmbridgeError):
    """The other side is gone. Connect again for a new session.

    Attributes:
        peer: Who is gone, for example ``host 'default'``.
        phase: What was being done when it was noticed, for example ``waiting for an action``.
        sequence: Number of the observation concerned; 0 before the first.
    """

    def __init__(self, message: str = "", *, peer: str = "", phase: str = "", sequence: int = 0) -> None:
        super().__init__(message)
        self.peer = peer
        self.phase = phase
        self.sequence = sequence


class PolicyError(ShmbridgeError):
    """A policy, or what is said about one, is at fault."""


class UnknownPolicyError(PolicyError, LookupError):
    """No policy (or environment) goes by that name; the message lists those that do."""


class PolicyRaisedError(PolicyError):
    """The policy's own code raised, or returned what its specs do not allow. The session is still good.

    Attributes:
        error_type: Class name of the policy's exception.
        remote_traceback: The traceback on the policy's side, as text; empty where there is none.
    """

    def __init__(self, message: str = "", *, error_type: str = "", remote_traceback: str = "") -> None:
        super().__init__(message)
        self.error_type = error_type
        self.remote_traceback = remote_traceback
