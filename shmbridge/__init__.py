"""shmbridge: observations and actions between a simulator and a policy, through shared memory.

Importing this loads neither torch nor anything else that is slow or optional.
"""

from shmbridge.client import Client
from shmbridge.connecting import connect
from shmbridge.environment import Autoreset, Environment, EnvironmentSpecs, Step
from shmbridge.errors import (
    AuthenticationError,
    ClosedError,
    HostBusyError,
    HostExistsError,
    HostNotFoundError,
    LayoutMismatchError,
    LocalProtocolError,
    PeerLostError,
    PolicyError,
    PolicyRaisedError,
    ProtocolError,
    RemoteProtocolError,
    SegmentError,
    SegmentNotReadyError,
    SharedMemoryFullError,
    ShmbridgeError,
    SpecError,
    TimedOutError,
    UnknownPolicyError,
)
from shmbridge.filling import LoanedSlot
from shmbridge.host import PolicyHost, serve
from shmbridge.messages import HostState, Status
from shmbridge.policy import Policy, PolicySpecs
from shmbridge.registry import register_environment, register_policy
from shmbridge.reply import Reply, Timing
from shmbridge.rollout import rollout
from shmbridge.spec import TensorSpec, decode_text, specs_from_example, specs_from_mapping, specs_from_space
from shmbridge.version import __version__

__all__ = [
    "AuthenticationError",
    "Autoreset",
    "Client",
    "ClosedError",
    "Environment",
    "EnvironmentSpecs",
    "HostBusyError",
    "HostExistsError",
    "HostNotFoundError",
    "HostState",
    "LayoutMismatchError",
    "LoanedSlot",
    "LocalProtocolError",
    "PeerLostError",
    "Policy",
    "PolicyError",
    "PolicyHost",
    "PolicyRaisedError",
    "PolicySpecs",
    "ProtocolError",
    "RemoteProtocolError",
    "Reply",
    "SegmentError",
    "SegmentNotReadyError",
    "SharedMemoryFullError",
    "ShmbridgeError",
    "SpecError",
    "Status",
    "Step",
    "TensorSpec",
    "TimedOutError",
    "Timing",
    "UnknownPolicyError",
    "__version__",
    "connect",
    "decode_text",
    "register_environment",
    "register_policy",
    "rollout",
    "serve",
    "specs_from_example",
    "specs_from_mapping",
    "specs_from_space",
]
