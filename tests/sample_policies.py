"""Policies for tests. What they do is told by the observation, so that a test in another process can steer them."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import shmbridge

RAISE, SLEEP, WRONG_SHAPE, WRONG_NAME, NAN, KEEP_VIEW, KEEP_ARRAY, WRONG_DTYPE, EXIT, KILL, WAIT, WRITE, NO_DICT, ODD_TEXT = range(-1, -15, -1)
"""What to do instead of answering, as the first number of the first row given; SLEEP takes the seconds from the second."""


class Affine(shmbridge.Policy):
    """The action of step h of the chunk is the observation ``q`` plus h, in every environment."""

    horizon = 4

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.asked: list[list[int]] = []
        self.resets: list[tuple[list[int], list[str]]] = []
        self.closed = 0

    def specs(self, offered: Mapping[str, shmbridge.TensorSpec]) -> shmbridge.PolicySpecs:
        return shmbridge.PolicySpecs([shmbridge.TensorSpec("q", (3,), "float32")], [shmbridge.TensorSpec("action", (3,), "float32")], self.horizon)

    def warm_up(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray] | None:
        self.resets.clear()
        return None

    def reset(self, session: Any, env_ids: Sequence[int], task: Sequence[str]) -> None:
        self.resets.append((list(env_ids), list(task)))

    def infer(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray]:
        self.asked.append(list(env_ids))
        steps = np.arange(self.horizon, dtype=np.float32)[None, :, None]
        return {"action": observation["q"][:, None, :] + steps}

    def close(self) -> None:
        self.closed += 1


class Commanded(Affine):
    """Affine, but a negative first number is a command."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.kept: list[Any] = []
        self.entered = threading.Event()
        self.gate = threading.Event()

    def infer(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = super().infer(session, observation, env_ids)
        command = int(observation["q"][0, 0])
        return answer if command >= 0 else self._obey(command, observation, dict(answer))

    def _obey(self, command: int, observation: Mapping[str, np.ndarray], answer: dict[str, Any]) -> Any:
        if command == RAISE:
            raise ValueError("told to raise")
        if command == ODD_TEXT:
            raise ValueError("a file called \udcff")
        if command == EXIT:
            raise SystemExit(3)
        if command == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if command == SLEEP:
            time.sleep(float(observation["q"][0, 1]))
        if command == WAIT:
            self.entered.set()
            self.gate.wait(60)
        if command == WRITE:
            observation["q"][0, 0] = 1
        if command == KEEP_VIEW:
            self.kept.append(observation["q"][1:, :2])
        if command == KEEP_ARRAY:
            self.kept.append(observation["q"])
        changed = {
            WRONG_SHAPE: lambda: {"action": answer["action"][:, :-1]},
            WRONG_NAME: lambda: {"acton": answer["action"]},
            WRONG_DTYPE: lambda: {"action": answer["action"].astype(np.float64)},
            NAN: lambda: {"action": answer["action"] * np.float32("nan")},
            NO_DICT: lambda: [answer["action"]],
        }
        return changed[command]() if command in changed else answer


class SlowToLoad(Affine):
    """Takes two seconds to construct and one and a half to warm up."""

    def __init__(self, config: Any = None) -> None:
        time.sleep(2.0)
        super().__init__(config)

    def warm_up(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray] | None:
        time.sleep(1.5)
        return None


class WrongAtWarmUp(Commanded):
    """Returns one step less than it promises, already at warm-up."""

    def warm_up(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray] | None:
        return {"action": np.zeros((len(env_ids), self.horizon - 1, 3), np.float32)}


class CannotLoad(Affine):
    def __init__(self, config: Any = None) -> None:
        raise FileNotFoundError("no weights at /models/none")


class ResetRaises(Affine):
    """The first reset of all that comes through an observation raises; later ones work."""

    raised = False

    def reset(self, session: Any, env_ids: Sequence[int], task: Sequence[str]) -> None:
        if not self.raised:
            self.raised = True
            raise RuntimeError("not yet")
        super().reset(session, env_ids, task)


class TakesAll(Affine):
    """Wants everything that is offered."""

    def specs(self, offered: Mapping[str, shmbridge.TensorSpec]) -> shmbridge.PolicySpecs:
        return shmbridge.PolicySpecs(list(offered.values()), [shmbridge.TensorSpec("action", (3,), "float32")], self.horizon)

    def infer(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray]:
        return {"action": np.zeros((len(env_ids), self.horizon, 3), np.float32)}


class Instructed(Affine):
    """Affine, and takes instructions within an episode.

    Attributes:
        instructions: Every one, as ``(env_ids, tasks)``.
    """

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.instructions: list[tuple[list[int], list[str]]] = []

    def instruct(self, session: Any, env_ids: Sequence[int], task: Sequence[str]) -> None:
        self.instructions.append((list(env_ids), list(task)))


class Remembering(Affine):
    """Wants everything that is offered, the last three observations of it.

    Attributes:
        seen: Copies of what was seen, one per inference.
    """

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.seen: list[dict[str, np.ndarray]] = []

    def specs(self, offered: Mapping[str, shmbridge.TensorSpec]) -> shmbridge.PolicySpecs:
        action = [shmbridge.TensorSpec("action", (3,), "float32")]
        return shmbridge.PolicySpecs(list(offered.values()), action, self.horizon, observation_steps=3)

    def infer(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray]:
        self.seen.append({name: array.copy() for name, array in observation.items()})
        return {"action": np.zeros((len(env_ids), self.horizon, 3), np.float32)}


class Telling(Instructed):
    """Its actions are made of the last three observations and of what it was told last."""

    def specs(self, offered: Mapping[str, shmbridge.TensorSpec]) -> shmbridge.PolicySpecs:
        return dataclasses.replace(super().specs(offered), observation_steps=3)

    def new_session(self, num_envs: int) -> list[float]:
        return [0.0] * num_envs

    def reset(self, session: list[float], env_ids: Sequence[int], task: Sequence[str]) -> None:
        super().reset(session, env_ids, task)
        for env_id, text in zip(env_ids, task, strict=True):
            session[env_id] = float(sum(text.encode()))

    def instruct(self, session: list[float], env_ids: Sequence[int], task: Sequence[str]) -> None:
        super().instruct(session, env_ids, task)
        for env_id, text in zip(env_ids, task, strict=True):
            session[env_id] = -float(sum(text.encode()))

    def infer(self, session: list[float], observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray]:
        weighed = observation["q"] @ np.array([1, 10, 100], np.float32)  # (rows, 3): one number per step seen
        told = np.array([session[env_id] for env_id in env_ids], np.float32)
        return {"action": np.repeat((weighed + told[:, None])[:, None], self.horizon, axis=1)}
