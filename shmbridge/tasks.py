"""What environments are to be told: new episodes and new instructions, merged until they are delivered."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from shmbridge.errors import SpecError
from shmbridge.layout import TASK_BYTES


class TaskChanges:
    """Changes not yet delivered. The client keeps them until an observation was sent, the host until the policy took them in.

    Attributes:
        episodes: Environments that begin an episode, each with its task; empty text for none.
        instructions: Environments that go on with their episode under a new instruction.
        waiting: Whether there is anything.
    """

    def __init__(self) -> None:
        self.episodes: dict[int, str] = {}
        self.instructions: dict[int, str] = {}
        self.waiting = False

    def begin(self, tasks: Mapping[int, str]) -> None:
        """Begin episodes. An instruction that was waiting belonged to the episode before, and goes with it."""
        self.waiting = self.waiting or bool(tasks)
        self.episodes.update(tasks)
        for env_id in tasks:
            self.instructions.pop(env_id, None)

    def instruct(self, tasks: Mapping[int, str]) -> None:
        """Give new instructions. Where an episode is about to begin, it begins with the new one."""
        self.waiting = self.waiting or bool(tasks)
        for env_id, task in tasks.items():
            (self.episodes if env_id in self.episodes else self.instructions)[env_id] = task

    def clear(self) -> None:
        """Forget everything, because it was delivered."""
        self.episodes.clear()
        self.instructions.clear()
        self.waiting = False


def tasks_by_row(env_ids: Sequence[int] | None, task: str | Sequence[str], num_envs: int) -> dict[int, str]:
    """Return the task of each environment meant.

    Args:
        env_ids: The environments; None for all of ``num_envs``.
        task: One text for all of them or one each.
        num_envs: How many there are.

    Raises:
        SpecError: An environment does not exist, or a text cannot be sent.
    """
    rows = list(range(num_envs)) if env_ids is None else _env_ids(env_ids, num_envs)
    tasks = list(task) if isinstance(task, Iterable) and not isinstance(task, str) else [task] * len(rows)
    _check_tasks(tasks, len(rows))
    return dict(zip(rows, tasks, strict=True))


def _env_ids(env_ids: Sequence[int], num_envs: int) -> list[int]:
    try:
        # A mask would pass as the numbers 0 and 1, and reset the wrong environments.
        rows = [operator.index(row) for row in env_ids if not isinstance(row, bool | np.bool_)]
    except TypeError:
        raise SpecError(f"env_ids must be whole numbers, found {env_ids!r}") from None
    if len(rows) != len(env_ids):
        raise SpecError("env_ids are numbers, not a mask: pass np.flatnonzero(mask)")
    for row in rows:
        if not 0 <= row < num_envs:
            raise SpecError(f"there is no environment {row}: they are numbered 0 to {num_envs - 1}")
    return rows


def _check_tasks(tasks: Sequence[str], count: int) -> None:
    if len(tasks) != count:
        raise SpecError(f"{len(tasks)} tasks for {count} environments: give one text for all or one each")
    for text in tasks:
        if not isinstance(text, str):
            raise SpecError(f"a task is a text, found {text!r}")
        try:
            nbytes = len(text.encode())
        except UnicodeEncodeError:
            raise SpecError(f"a task is sent as UTF-8, which cannot hold {text[:40]!r}") from None
        if nbytes > TASK_BYTES or "\0" in text:
            raise SpecError(f"a task may have at most {TASK_BYTES} bytes in UTF-8 and no NUL; this one has {nbytes}: {text[:40]!r}")
