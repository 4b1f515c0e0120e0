"""An environment for shmbridge run.

Run it with:

    shmbridge run … docs/examples/point_environment.py:PointEnvironment --size 64
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import shmbridge


@dataclass(frozen=True)
class PointConfig:
    """The environment's own flags."""

    size: int = 64
    max_steps: int = 40


class PointEnvironment(shmbridge.Environment):
    """A point that must reach the origin, seen by a camera from above."""

    config_type = PointConfig  # autoreset stays DISABLED: finished environments wait for reset(), so every episode has its seed

    def __init__(self, config=None, *, num_envs=1, enable_cameras=False, headless=True, device="cpu"):
        super().__init__(config or PointConfig(), num_envs=num_envs)
        self._position = np.zeros((num_envs, 2), np.float32)
        self._steps = np.zeros(num_envs, int)
        size = (self.config.size, self.config.size, 3)
        self._camera = [shmbridge.TensorSpec("camera_obs/top_rgb", size, "uint8", unit="sRGB")] if enable_cameras else []

    @property
    def specs(self):
        return shmbridge.EnvironmentSpecs(
            observation=[shmbridge.TensorSpec("policy/position", (2,), "float32", unit="m"), *self._camera],
            action=[shmbridge.TensorSpec("action", (2,), "float32", unit="m")],
        )

    def reset(self, *, seed, options, out):
        chosen = np.flatnonzero(options.get("reset_mask", np.ones(self.num_envs, bool)))
        for row in chosen:
            self._position[row] = np.random.default_rng(seed[row]).uniform(-1.0, 1.0, 2)
        self._steps[chosen] = 0
        self._observe(chosen, out)
        return [{"task": "go to the origin"}] * self.num_envs

    def step(self, action, *, out):
        self._position += action["action"]
        self._steps += 1
        self._observe(range(self.num_envs), out)
        distance = np.linalg.norm(self._position, axis=1)
        arrived, late = distance < 0.05, self._steps >= self.config.max_steps
        info = [{"arrived": bool(each)} for each in arrived]
        return shmbridge.Step(reward=-distance.astype(np.float64), terminated=arrived, truncated=late & ~arrived, info=info)

    def episode_metrics(self, info):
        return {"success_rate": float(info["arrived"])}

    def _observe(self, rows, out):
        """Write ``rows`` of what was asked for. ``out`` lies in the memory that the policy reads."""
        for row in rows:
            if "policy/position" in out:
                out["policy/position"][row] = self._position[row]
            if "camera_obs/top_rgb" in out:
                image = out["camera_obs/top_rgb"][row]
                image[:] = 0
                column, line = np.clip((self._position[row] + 1.0) / 2.0 * self.config.size, 0, self.config.size - 1).astype(int)
                image[line, column] = 255


def main():
    """Run it with the served policy beside this file, as two commands would."""
    here, name = Path(__file__).parent, f"example-{os.getpid()}"
    command = [sys.executable, "-m", "shmbridge"]
    host = subprocess.Popen([*command, "serve", "--name", name, "--policy_type", f"{here / 'gain_policy.py'}:GainPolicy"])
    try:
        remote = ["--policy_deployment", "remote", "--name", name, "--remote_start_timeout_ms", "60000", "--remote_kill_on_exit"]
        extent = ["--num_envs", "4", "--num_episodes", "10", "--enable_cameras"]
        return subprocess.run([*command, "run", *remote, *extent, f"{__file__}:PointEnvironment", "--size", "32"], check=False).returncode
    finally:
        host.terminate()
        host.wait()


if __name__ == "__main__":
    sys.exit(main())
