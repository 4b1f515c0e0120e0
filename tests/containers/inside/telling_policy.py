"""A policy whose answers tell which host, episode and observation they were made for. It runs in the policy's container."""

import os
import time
from pathlib import Path

import numpy as np

import shmbridge

ENOUGH = Path("/tmp/enough")
"""A file that ends the thinking."""
ACTION = shmbridge.TensorSpec("action", (4,), "float64")


class TellingPolicy(shmbridge.Policy):
    """Takes all that is offered, thinks for ``seconds`` or until :data:`ENOUGH` is there, and answers ``(mark, born, resets, camera)``.

    ``born`` is the monotonic time at which the host was made: all containers of a machine share that clock, so no two hosts are
    born alike. ``camera`` is the last byte of the camera's image, -1 without one. Told to
    think less than nothing, it ends its process as a crash would.
    """

    def __init__(self, config=None):
        super().__init__(config)
        self._born = time.monotonic()
        print("born", self._born, flush=True)

    def specs(self, offered):
        return shmbridge.PolicySpecs(observation=list(offered.values()), action=[ACTION])

    def new_session(self, num_envs):
        return np.zeros(num_envs)

    def reset(self, session, env_ids, task):
        session[list(env_ids)] += 1

    def infer(self, session, observation, env_ids):
        self._think(float(observation["seconds"].max()))
        camera = observation["camera"][:, -1] if "camera" in observation else -1.0
        answer = np.empty((len(env_ids), 1, 4))
        answer[:, 0, 0] = observation["mark"]
        answer[:, 0, 1] = self._born
        answer[:, 0, 2] = session[list(env_ids)]
        answer[:, 0, 3] = camera
        return {"action": answer}

    def _think(self, seconds):
        if seconds < 0:
            os._exit(70)
        end = time.monotonic() + seconds
        if seconds:
            print("thinking", flush=True)
        while time.monotonic() < end and not ENOUGH.exists():
            time.sleep(0.02)
