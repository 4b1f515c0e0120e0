"""Several past observations in one: the newest and those before it, oldest first, per environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from shmbridge.spec import TensorSpec


class FrameStack:
    """The past of every environment.

    An observation is completed in its slot before it is sent, and remembered once its step is over; so one that is given again after a
    timeout gets the same past.
    """

    def __init__(self, specs: Sequence[TensorSpec], num_envs: int, steps: int) -> None:
        """Start with no past.

        Args:
            specs: What is observed, per environment and step.
            num_envs: Environments.
            steps: Observations in a stack, at least 2.
        """
        self._past = {spec.name: np.zeros((num_envs, steps - 1, *spec.shape), spec.storage) for spec in specs}
        self._begins = np.ones(num_envs, np.bool_)
        self._stacked: Mapping[str, np.ndarray] | None = None

    def begin(self, env_ids: Sequence[int]) -> None:
        """Begin episodes: their first observation stands for the past that they do not have."""
        self._begins[list(env_ids)] = True

    def complete(self, stacked: Mapping[str, np.ndarray]) -> None:
        """Write the past in front of the newest observation.

        Args:
            stacked: ``(num_envs, steps, *spec.shape)`` each, of which ``[:, -1]`` holds the newest. Kept until :meth:`remember`, unchanged.
        """
        for name, array in stacked.items():
            array[:, :-1] = self._past[name]
            if self._begins.any():
                array[self._begins, :-1] = array[self._begins, -1:]
        self._stacked = stacked

    def pass_over(self, newest: Mapping[str, Any], write: Callable[[Any, np.ndarray], None]) -> None:
        """Make an observation that is not sent the newest of the past.

        Args:
            newest: ``(num_envs, *spec.shape)`` each.
            write: Copies one of them into an array.
        """
        for name, value in newest.items():
            past = self._past[name]
            past[:, :-1] = past[:, 1:]
            write(value, past[:, -1])
            if self._begins.any():
                past[self._begins, :-1] = past[self._begins, -1:]
        self._begins[:] = False
        self._stacked = None

    def forget(self) -> None:
        """Let go of the slot that was completed last."""
        self._stacked = None

    def remember(self) -> None:
        """Make the observation completed last the newest of the past. Does nothing if there is none."""
        if self._stacked is None:
            return
        for name, array in self._stacked.items():
            np.copyto(self._past[name], array[:, 1:])
        self._begins[:] = False
        self._stacked = None
