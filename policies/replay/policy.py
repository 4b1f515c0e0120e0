"""The policy: no model, only places in a recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

import shmbridge
from shmbridge_policies.replay.recording import read_recording


@dataclass(frozen=True)
class ReplayConfig:
    """What to play.

    Attributes:
        path: A ``recording.npz`` of ``shmbridge run --record``, or a ``.npz`` with one array (steps, …) per action, which is played from each
            reset on in every environment.
        at_end: Where an episode's actions are used up: ``error``, or ``hold`` the environment's last one.
        any_num_envs: Play a recording in another number of environments than it was made with.
        observe: Ask for everything that is offered, so that the run's videos show it. It is not looked at.
    """

    path: str
    at_end: Literal["error", "hold"] = "error"
    any_num_envs: bool = False
    observe: bool = False


class Places:
    """Where each environment of one client stands: in which episode, and how far."""

    def __init__(self, num_envs: int, specs: Sequence[shmbridge.TensorSpec]) -> None:
        self.episode = list(range(num_envs))
        self.step = [0] * num_envs
        self.begun = [False] * num_envs
        self.last = [{spec.name: np.zeros(spec.shape, spec.storage) for spec in specs}] * num_envs

    def begin(self, env_id: int) -> None:
        """Go to the environment's first episode, or from there to its next."""
        if self.begun[env_id]:
            self.episode[env_id] += len(self.episode)
        self.begun[env_id], self.step[env_id] = True, 0


@shmbridge.register_policy("replay")
class ReplayPolicy(shmbridge.Policy):
    """Gives each environment the actions recorded for its episodes: its k-th reset begins episode number ``env_id + k * num_envs``.

    Raises:
        PolicyError: The file cannot be read, or, when asked for an action, an episode's actions are used up.
        SpecError: The file's arrays do not belong together, or were made with another number of environments.
    """

    config_type = ReplayConfig

    def __init__(self, config: ReplayConfig) -> None:
        super().__init__(config)
        self._config = config
        self._recording = read_recording(config.path)

    def specs(self, offered: Mapping[str, shmbridge.TensorSpec]) -> shmbridge.PolicySpecs:
        return shmbridge.PolicySpecs(observation=list(offered.values()) if self._config.observe else [], action=self._recording.specs)

    def new_session(self, num_envs: int) -> Places:
        self._check(num_envs)
        return Places(num_envs, self._recording.specs)

    def reset(self, session: Places, env_ids: Sequence[int], task: Sequence[str]) -> None:
        for env_id in env_ids:
            session.begin(env_id)

    def instruct(self, session: Places, env_ids: Sequence[int], task: Sequence[str]) -> None:
        """Take it as recorded: what was done under a new instruction follows what was done before it."""

    def infer(self, session: Places, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> dict[str, np.ndarray]:
        # All first: where one environment has no action left, none may have moved on, because the client may ask again.
        actions = [self._action(session, env_id) for env_id in env_ids]
        for env_id, action in zip(env_ids, actions, strict=True):
            session.last[env_id] = action
            session.step[env_id] += 1
        return {spec.name: np.stack([action[spec.name] for action in actions])[:, np.newaxis] for spec in self._recording.specs}

    def _action(self, session: Places, env_id: int) -> dict[str, np.ndarray]:
        index, step = session.episode[env_id], session.step[env_id]
        actions = self._recording.actions(index)
        length = len(next(iter(actions.values()))) if actions else 0
        if actions and step < length:
            return {name: array[step] for name, array in actions.items()}
        if self._config.at_end == "hold":
            return session.last[env_id]
        raise shmbridge.PolicyError(self._used_up(index, env_id, length))

    def _used_up(self, index: int, env_id: int, length: int) -> str:
        if self._recording.num_envs is None:
            episode, has = f"environment {env_id}", f"the trajectory in {self._config.path} has {length} steps"
        else:
            recorded = f"{length} were" if length else "none was"
            episode, has = f"episode {index} (environment {env_id})", f"{recorded} recorded in {self._config.path}"
        return f"no action is left for {episode}: {has}, and the environment goes on. Set at_end to 'hold' to repeat the last one"

    def _check(self, num_envs: int) -> None:
        """Refuse another number of environments, where the episodes would be others."""
        recorded = self._recording.num_envs
        if recorded in (None, num_envs):
            return
        text = f"{self._config.path} was recorded with {recorded} environment(s), this run has {num_envs}"
        if self._recording.resets_itself:
            raise shmbridge.SpecError(f"{text}. Its environment resets itself, so later episodes depend on earlier ones: run with --num_envs {recorded}")
        if not self._config.any_num_envs:
            rule = "If the environment waits for its resets (Autoreset.DISABLED), every episode has a seed of its own and can be played anywhere"
            raise shmbridge.SpecError(f"{text}. {rule}: then set any_num_envs; else run with --num_envs {recorded}")
