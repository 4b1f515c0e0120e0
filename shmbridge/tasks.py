"""What environments are to be told: new episodes and new instructions, merged until they are delivered.

Both sides keep one of these: the client until an observation was sent, the host until the policy took it in.
"""

from __future__ import annotations

from collections.abc import Mapping


class TaskChanges:
    """Changes not yet delivered.

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
