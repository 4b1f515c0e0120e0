"""Running an environment with a policy: episodes, seeds, resets, and what is counted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from shmbridge.client import Client
from shmbridge.environment import Autoreset, Environment, Info, Step
from shmbridge.errors import SpecError
from shmbridge.filling import LoanedSlot
from shmbridge.reply import Timing


@dataclass(frozen=True)
class Episode:
    """One finished episode.

    Attributes:
        env_id: Which environment it ran in.
        index: Its number among all episodes of the run; with ``Autoreset.DISABLED`` the same index always has the same seed.
        seed: What it was seeded with; None where the environment resets by itself.
        steps: Actions taken.
        terminated: Whether the task itself ended; else it was cut off.
        metrics: What the environment reports for it.
    """

    env_id: int
    index: int
    seed: int | None
    steps: int
    terminated: bool
    metrics: Mapping[str, float]


class Moment(NamedTuple):
    """What a watcher sees once per step, before the observation is sent."""

    step: int
    """Steps made so far; 0 before the first."""
    observation: LoanedSlot
    """Arrays in shared memory, about to be sent: copy what you keep."""
    episodes: np.ndarray
    """(num_envs,) int64: index of the episode that each row of the observation belongs to. With ``Autoreset.NEXT_STEP`` the last
    observation of an episode is among them."""
    finished: Sequence[Episode]
    """Counted episodes that the step just made has ended."""
    last: Mapping[int, Mapping[str, np.ndarray]]
    """Per environment that has been reset since: the last observation of its episode, rows without batch axis; copies. Empty where
    environments reset themselves: with ``Autoreset.SAME_STEP`` nobody sees it."""
    actions: Mapping[str, np.ndarray]
    """What the step just made did, ``(num_envs, *spec.shape)`` each; copies, yours to keep. Empty before the first."""
    acted_in: np.ndarray
    """(num_envs,) int64: index of the episode in which each action was taken; -1 where the environment ignored it to reset itself."""


Watch = Callable[[Moment], None]


@dataclass
class RolloutResult:
    """What a run gave.

    Attributes:
        episodes: Counted ones, in the order in which they ended.
        steps: Steps of the whole batch.
        timings: One per request to the policy.
        actions_hash: What :attr:`actions_digest` is made of.
    """

    episodes: list[Episode] = field(default_factory=list)
    steps: int = 0
    timings: list[Timing] = field(default_factory=list)
    actions_hash: Any = field(default_factory=hashlib.sha256, repr=False)

    @property
    def actions_digest(self) -> str:
        """SHA-256 of every action taken, in order: two runs with equal digests acted the same, bit for bit."""
        return str(self.actions_hash.hexdigest())

    def add_actions(self, actions: Mapping[str, np.ndarray]) -> None:
        """Count the actions of one step in."""
        for name in sorted(actions):
            self.actions_hash.update(np.ascontiguousarray(actions[name]))

    def metrics(self) -> dict[str, float]:
        """Return the mean of each reported number over the finished episodes, and ``num_episodes``."""
        names = list(dict.fromkeys(name for episode in self.episodes for name in episode.metrics))
        means = {name: float(np.mean([episode.metrics[name] for episode in self.episodes if name in episode.metrics])) for name in names}
        return {**{name: round(mean, 6) for name, mean in means.items()}, "num_episodes": len(self.episodes)}


def rollout(
    environment: Environment, client: Client, *, num_steps: int | None = None, num_episodes: int | None = None, seed: int = 0, watch: Watch | None = None
) -> RolloutResult:
    """Let a policy act in an environment. Cameras render straight into the memory that the policy reads.

    Episodes are a fixed quota per environment: taking the first N that finish would favour short ones. Episode number i runs in
    environment ``i % num_envs`` with seed ``seed + i``.

    Args:
        environment: Closed by the caller.
        client: A session with as many environments; closed by the caller.
        num_steps: Stop after so many steps of the batch; all episodes that finish count.
        num_episodes: Stop after so many counted episodes. Give exactly one of the two.
        seed: Of the first episode.
        watch: Called once per step.

    Raises:
        SpecError: Neither or both of the limits are given, or the two sides have different numbers of environments.
    """
    if (num_steps is None) == (num_episodes is None):
        raise SpecError("give exactly one of num_steps and num_episodes")
    if environment.num_envs != client.agreement.num_envs:
        raise SpecError(f"the environment has {environment.num_envs} copies, the session {client.agreement.num_envs}")
    run = _Run(environment, client, num_episodes, seed, watched=watch is not None)
    run.begin()
    while not run.is_done(num_steps):
        if watch is not None:
            watch(run.moment())
        run.step()
    if watch is not None:
        watch(run.moment())
    return run.result


class _Run:
    """The state of one rollout."""

    def __init__(self, environment: Environment, client: Client, num_episodes: int | None, seed: int, *, watched: bool) -> None:
        self._environment, self._client = environment, client
        self._num_episodes, self._seed, self._watched = num_episodes, seed, watched
        self._num_envs = environment.num_envs
        self._index = list(range(self._num_envs))
        self._length = [0] * self._num_envs
        self._told = [""] * self._num_envs
        self._resets_next = np.zeros(self._num_envs, np.bool_)
        self._finished: list[Episode] = []
        self._last: dict[int, dict[str, np.ndarray]] = {}
        self._actions: dict[str, np.ndarray] = {}
        self._acted_in = np.full(self._num_envs, -1, np.int64)
        self.result = RolloutResult()

    def begin(self) -> None:
        """Reset everything, with the seeds of the first episodes."""
        self._slot = self._client.loan()
        infos = self._environment.reset(seed=[self._seed + index for index in self._index], options={}, out=self._slot)
        self._tell_policy(range(self._num_envs), infos)

    def is_done(self, num_steps: int | None) -> bool:
        """Whether the limit is reached."""
        if num_steps is not None:
            return self.result.steps >= num_steps
        return all(index >= (self._num_episodes or 0) for index in self._index)

    def moment(self) -> Moment:
        """Return what a watcher may see now."""
        # Where an environment waits to reset itself, the next index is reserved already, but the row is still its last episode's.
        episodes = np.asarray(self._index, np.int64) - np.where(self._resets_next, self._num_envs, 0)
        finished, self._finished = self._finished, []
        last, self._last = self._last, {}
        return Moment(self.result.steps, self._slot, episodes, finished, last, self._actions, self._acted_in)

    def step(self) -> None:
        """Ask the policy, step the simulator, and begin new episodes where some ended."""
        reply = self._client.act(self._slot)
        if reply.timing is not None:
            self.result.timings.append(reply.timing)
        self.result.add_actions(reply.actions)
        self._note(reply.actions)
        self._slot = self._client.loan()
        step = self._environment.step(reply.actions, out=self._slot)
        self.result.steps += 1
        self._count(step)
        ended = np.asarray(step.terminated | step.truncated) & ~self._resets_next
        self._tell_new_tasks(np.flatnonzero(~ended & ~self._resets_next).tolist(), step.info)
        self._begin_episodes(step, ended)

    def _note(self, actions: Mapping[str, np.ndarray]) -> None:
        """Keep for the watcher what the environment is given, before it may change it."""
        if self._watched:
            self._actions = {name: array.copy() for name, array in actions.items()}
            self._acted_in = np.where(self._resets_next, -1, np.asarray(self._index, np.int64))

    def _count(self, step: Step) -> None:
        for env_id in np.flatnonzero(~self._resets_next).tolist():
            self._length[env_id] += 1
            if step.terminated[env_id] or step.truncated[env_id]:
                self._finish(env_id, bool(step.terminated[env_id]), step.info[env_id])

    def _finish(self, env_id: int, terminated: bool, info: Info) -> None:
        index = self._index[env_id]
        if self._num_episodes is None or index < self._num_episodes:
            seed = self._seed + index if self._environment.autoreset is Autoreset.DISABLED or index < self._num_envs else None
            episode = Episode(env_id, index, seed, self._length[env_id], terminated, self._environment.episode_metrics(info))
            self.result.episodes.append(episode)
            self._finished.append(episode)
        self._index[env_id] += self._num_envs
        self._length[env_id] = 0

    def _begin_episodes(self, step: Step, ended: np.ndarray) -> None:
        mode = self._environment.autoreset
        if mode is Autoreset.NEXT_STEP:
            # The step just made was the resetting one for those that ended before it; it returned their first observation.
            self._tell_policy(np.flatnonzero(self._resets_next).tolist(), step.info)
            self._resets_next = ended
        elif ended.any():
            self._keep_last(ended)
            infos = self._reset_masked(ended) if mode is Autoreset.DISABLED else step.info
            self._tell_policy(np.flatnonzero(ended).tolist(), infos)

    def _reset_masked(self, mask: np.ndarray) -> Sequence[Info]:
        seeds = [self._seed + self._index[env_id] if mask[env_id] else None for env_id in range(self._num_envs)]
        return self._environment.reset(seed=seeds, options={"reset_mask": mask}, out=self._slot)

    def _keep_last(self, ended: np.ndarray) -> None:
        """Copy for the watcher what a reset is about to overwrite."""
        if self._watched and self._environment.autoreset is Autoreset.DISABLED:
            self._last = {env_id: {name: array[env_id].copy() for name, array in self._slot.items()} for env_id in np.flatnonzero(ended).tolist()}

    def _tell_policy(self, env_ids: Sequence[int], infos: Sequence[Info]) -> None:
        """Tell of new episodes and their tasks."""
        if len(env_ids):
            tasks = [str(infos[env_id].get("task", "")) for env_id in env_ids]
            self._client.reset(list(env_ids), tasks)
            self._remember(env_ids, tasks)

    def _tell_new_tasks(self, env_ids: Sequence[int], infos: Sequence[Info]) -> None:
        """Tell of tasks that changed while their episodes went on. An info without one changes nothing."""
        changed = {env_id: task for env_id in env_ids if (task := str(infos[env_id].get("task", self._told[env_id]))) != self._told[env_id]}
        if changed:
            self._client.instruct(list(changed), list(changed.values()))
            self._remember(list(changed), list(changed.values()))

    def _remember(self, env_ids: Sequence[int], tasks: Sequence[str]) -> None:
        for env_id, task in zip(env_ids, tasks, strict=True):
            self._told[env_id] = task
