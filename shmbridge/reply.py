"""What a client gets back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from shmbridge.spec import flatten


class Timing(NamedTuple):
    """Where the time of one request went, in seconds."""

    write: float
    """Checking the observation and copying it into the slot."""
    wait: float
    """From publishing to the answer, without ``infer``: transport, and the host being busy with others."""
    infer: float
    """The policy, as the host measured it."""
    read: float
    """Copying the action out."""

    @property
    def total(self) -> float:
        return self.write + self.wait + self.infer + self.read


@dataclass(frozen=True)
class Reply:
    """Actions, and what they answer.

    Attributes:
        actions: One array per action spec; copies, the caller's to keep. Nested dictionaries of tensors with ``array="torch"``.
        step: (num_envs,) int64: the step whose observation each row answers; a scalar without a batch axis.
        age: (num_envs,) int64: how many steps ago that was; 0 is the observation just given.
        valid: (num_envs,) bool: rows that were asked for and were made in the episode that is running now.
        timing: None where nothing had to be asked.
        info: ``sequence`` of the request, ``policy`` that answered; empty where nothing had to be asked.
    """

    actions: Mapping[str, Any]
    step: np.ndarray
    age: np.ndarray
    valid: np.ndarray
    timing: Timing | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        if name in self.actions:
            return self.actions[name]
        return flatten(self.actions)[name]
