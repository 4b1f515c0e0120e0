"""A proportional controller as a policy.

Serve it with:

    shmbridge serve --policy_type docs/examples/gain_policy.py:GainPolicy --gain 0.5
"""

from dataclasses import dataclass

import numpy as np

import shmbridge


@dataclass(frozen=True)
class GainConfig:
    """Keys of the YAML file, and flags of ``shmbridge serve``."""

    gain: float = 0.5
    horizon: int = 4


class GainPolicy(shmbridge.Policy):
    """Moves a point towards the origin, a chunk of equal steps at a time."""

    config_type = GainConfig

    def specs(self, offered):
        position = shmbridge.TensorSpec("policy/position", (2,), "float32", unit="m")
        action = shmbridge.TensorSpec("action", (2,), "float32", unit="m")
        return shmbridge.PolicySpecs(observation=[position], action=[action], horizon=self.config.horizon)

    def infer(self, session, observation, env_ids):
        step = -self.config.gain / self.config.horizon * observation["policy/position"]  # (len(env_ids), 2)
        return {"action": np.repeat(step[:, None], self.config.horizon, axis=1).astype(np.float32)}


if __name__ == "__main__":
    observation = {"policy": {"position": np.array([[1.0, 2.0], [4.0, 0.0]], np.float32)}}
    with shmbridge.connect(GainPolicy(GainConfig()), example=observation, num_envs=2) as policy:
        print(policy.infer(observation)["action"][:, 0])
