"""An environment that needs nothing but numpy. It runs in the simulator's container."""

import time

import numpy as np

import shmbridge


class CountingEnvironment(shmbridge.Environment):
    """Episodes of 50 steps of 2 ms. Observes what :class:`TellingPolicy` takes, and fails on an answer to anything but its last observation."""

    def __init__(self, config=None, *, num_envs=1, enable_cameras=False, headless=True, device="cpu"):
        super().__init__(config, num_envs=num_envs)
        self._steps = np.zeros(num_envs, int)
        self._asked = np.zeros(num_envs)

    @property
    def specs(self):
        observation = [shmbridge.TensorSpec("mark", (), "float64"), shmbridge.TensorSpec("seconds", (), "float64")]
        return shmbridge.EnvironmentSpecs(observation=observation, action=[shmbridge.TensorSpec("action", (4,), "float64")])

    def reset(self, *, seed, options, out):
        chosen = np.flatnonzero(options.get("reset_mask", np.ones(self.num_envs, bool)))
        self._steps[chosen] = 0
        self._observe(chosen, out)
        return [{}] * self.num_envs

    def step(self, action, *, out):
        assert (action["action"][:, 0] == self._asked).all(), f"a stale action: it answers {action['action'][:, 0]}, asked was {self._asked}"
        time.sleep(0.002)
        self._steps += 1
        self._observe(range(self.num_envs), out)
        ended = self._steps >= 50
        return shmbridge.Step(reward=np.zeros(self.num_envs), terminated=ended, truncated=np.zeros(self.num_envs, bool), info=[{}] * self.num_envs)

    def episode_metrics(self, info):
        return {"success_rate": 1.0}

    def _observe(self, rows, out):
        for row in rows:
            self._asked[row] = time.monotonic()
            if "mark" in out:
                out["mark"][row] = self._asked[row]
                out["seconds"][row] = 0.0
