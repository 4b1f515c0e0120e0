"""For two simulators that must be seen to run at the same time: an environment that waits for the other one, and a policy that counts their turns."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import shmbridge
from shmbridge_launch.envs.gymnasium_env import GymnasiumConfig, GymnasiumEnvironment

PATIENCE_SECONDS = 120.0
HORIZON = 4


@dataclass(frozen=True)
class MeetingConfig(GymnasiumConfig):
    """Where to meet, and how many must be there."""

    meet: str = ""
    guests: int = 1


class MeetingEnvironment(GymnasiumEnvironment):
    """Begins once all are connected and ready to begin."""

    config_type = MeetingConfig

    def reset(self, *, seed, options, out):
        if "reset_mask" not in options:
            _meet(Path(self.config.meet), self.config.guests)
        return super().reset(seed=seed, options=options, out=out)


def _meet(folder, guests):
    (folder / str(os.getpid())).touch()
    end = time.monotonic() + PATIENCE_SECONDS
    while len(list(folder.iterdir())) < guests:
        assert time.monotonic() < end, "the other simulator did not come"
        time.sleep(0.01)


@dataclass(frozen=True)
class BitsConfig:
    """Where to write how often the policy turned from one client to another."""

    turns_path: str = ""


class BitsPolicy(shmbridge.Policy):
    """Moves a cart by all the bits it was ever shown of it.

    Whole numbers only, so that a row's action cannot depend on the rows beside it, as rounding may.
    """

    config_type = BitsConfig

    def __init__(self, config=None):
        super().__init__(config or BitsConfig())
        self._last, self._turns = None, 0

    def specs(self, offered):
        return shmbridge.PolicySpecs(list(offered.values()), [shmbridge.TensorSpec("action", (), "int64")], HORIZON)

    def new_session(self, num_envs):
        return np.zeros(num_envs, np.uint64)

    def warm_up(self, session, observation, env_ids):
        return None

    def reset(self, session, env_ids, task):
        session[list(env_ids)] = 0

    def infer(self, session, observation, env_ids):
        self._turns += self._last is not session
        self._last = session
        bits = sum(array.view(np.uint32).reshape(len(env_ids), -1).sum(axis=1, dtype=np.uint64) for array in observation.values())
        session[list(env_ids)] = session[list(env_ids)] * np.uint64(31) + bits
        return {"action": (session[list(env_ids), None] >> np.arange(HORIZON, dtype=np.uint64) & np.uint64(1)).astype(np.int64)}

    def close(self):
        Path(self.config.turns_path).write_text(str(self._turns))
