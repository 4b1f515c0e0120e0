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

from shmbridge.errors import PolicyError, SpecError
from shmbridge.spec import TensorSpec, as_tuple_of_specs

MAX_HORIZON = 10_000
MAX_OBSERVATION_STEPS = 1_000


@dataclass(frozen=True)
class PolicySpecs:
    """What a policy maps: the observations it needs, the actions it gives, and how many of them at a time.

    Attributes:
        observation: Specs picked out of what the simulator offers; only these are transferred.
        action: Specs of the actions, per environment and per step of the chunk.
        horizon: Steps in an action chunk, at least 1.
        observation_steps: Observations that :meth:`Policy.infer` sees at a time, at least 1. The client stacks them.
    """

    observation: Sequence[TensorSpec]
    action: Sequence[TensorSpec]
    horizon: int = 1
    observation_steps: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "observation", as_tuple_of_specs(self.observation, "observation"))
        object.__setattr__(self, "action", as_tuple_of_specs(self.action, "action"))
        if not 1 <= self.horizon <= MAX_HORIZON:
            raise SpecError(f"horizon must lie between 1 and {MAX_HORIZON}, not {self.horizon}")
        if not 1 <= self.observation_steps <= MAX_OBSERVATION_STEPS:
            raise SpecError(f"observation_steps must lie between 1 and {MAX_OBSERVATION_STEPS}, not {self.observation_steps}")

    def observation_batch(self, num_envs: int) -> tuple[int, ...]:
        """Return the axes in front of an observation's own: environments and, where several are stacked, steps."""
        return (num_envs,) if self.observation_steps == 1 else (num_envs, self.observation_steps)


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

    def instruct(self, session: Any, env_ids: Sequence[int], task: Sequence[str]) -> None:
        """Take new instructions within running episodes. The rest of these environments' chunks will not be played.

        The default refuses, because a policy that looks at its task in :meth:`reset` only would go on with the old one unnoticed.

        Args:
            session, env_ids, task: As in :meth:`reset`.

        Raises:
            PolicyError: This policy takes instructions at the beginning of an episode only.
        """
        name = type(self).__name__
        raise PolicyError(f"the instruction changed within an episode, and {name} takes one at its beginning only; let it implement instruct()")

    @abstractmethod
    def infer(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray]:
        """Map observations to action chunks.

        Args:
            session: What :meth:`new_session` returned.
            observation: One read-only array per observation spec, ``(len(env_ids), *spec.shape)``, or ``(len(env_ids),
                observation_steps, *spec.shape)``, oldest first, where several are stacked; an episode's first one stands for
                those before it. They are views of shared memory, valid until this method returns; keep a copy, never a view.
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
