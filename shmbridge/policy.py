"""What a policy is: the contract a plug-in implements, and the answer it gives about its tensors.

Weights belong to the policy object, of which a host has one. What belongs to a client (recurrent state, histories, random
generators, the task) belongs into the session object, of which each client has its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from shmbridge.errors import SpecError
from shmbridge.spec import TensorSpec, as_tuple_of_specs

MAX_HORIZON = 10_000


@dataclass(frozen=True)
class PolicySpecs:
    """What a policy maps: the observations it needs, the actions it gives, and how many of them at a time.

    Attributes:
        observation: Specs picked out of what the simulator offers; only these are transferred.
        action: Specs of the actions, per environment and per step of the chunk.
        horizon: Steps in an action chunk, at least 1.
    """

    observation: Sequence[TensorSpec]
    action: Sequence[TensorSpec]
    horizon: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "observation", as_tuple_of_specs(self.observation, "observation"))
        object.__setattr__(self, "action", as_tuple_of_specs(self.action, "action"))
        if not 1 <= self.horizon <= MAX_HORIZON:
            raise SpecError(f"horizon must lie between 1 and {MAX_HORIZON}, not {self.horizon}")


class Policy(ABC):
    """One policy. Subclass it, register it, and the same class serves local and remote deployments.

    ``config_type`` names a dataclass (or ``msgspec.Struct``) whose fields become the keys of the YAML file and the flags of
    ``shmbridge serve``; without one, ``config`` is None. All methods are called from one thread, one at a time.
    """

    config_type: ClassVar[type | None] = None

    def __init__(self, config: Any = None) -> None:
        """Load the model, once per host. Raise what you like: the message and traceback reach the clients that wait."""
        self.config = config

    @abstractmethod
    def specs(self, offered: Mapping[str, TensorSpec]) -> PolicySpecs:
        """Pick what this policy needs out of what a simulator offers.

        Args:
            offered: The simulator's observation specs by name.

        Raises:
            SpecError: What is offered cannot serve. A plain mismatch need not be checked here: the host compares the specs
                returned with those offered, and its refusal shows both.
        """

    def new_session(self, num_envs: int) -> Any:
        """Make whatever state one client with ``num_envs`` environments needs. Two clients never share it."""
        return None

    def reset(self, session: Any, env_ids: Sequence[int], task: Sequence[str]) -> None:
        """Begin new episodes.

        Args:
            session: What :meth:`new_session` returned.
            env_ids: The environments that begin one.
            task: One text per entry of ``env_ids``; empty where the simulator gave none.
        """

    @abstractmethod
    def infer(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray]:
        """Map observations to action chunks.

        Args:
            session: What :meth:`new_session` returned.
            observation: One read-only array per observation spec, ``(len(env_ids), *spec.shape)``. They are views of shared
                memory, valid until this method returns; keep a copy, never a view.
            env_ids: Which environments the rows belong to, in order.

        Returns:
            One array per action spec, ``(len(env_ids), horizon, *spec.shape)``. It is copied before the next call.
        """

    def warm_up(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray] | None:
        """Do once, before the first client of this shape is served, what makes the first inference slow.

        The default infers once on zeros, in a session of its own. What it returns is checked against the specs, so that a
        wrong shape is refused before step one. Return None to skip that.
        """
        return self.infer(session, observation, env_ids)

    def close(self) -> None:
        """Let go of the model. Called once, when the host stops."""
