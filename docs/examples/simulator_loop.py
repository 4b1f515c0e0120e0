"""A simulator of your own, joined to a policy in another process: connect, loan, act, reset."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import shmbridge

NUM_ENVS = 3
HOST = f"example-{os.getpid()}"


def render(position, image):
    """Draw the point into ``image``, (64, 64, 3) uint8, in place: here a real camera would render."""
    image[:] = 0
    column, row = np.clip((position + 2.0) * 16.0, 0, 63).astype(int)
    image[row, column] = 255


def simulate(policy):
    """Run 50 steps. An environment begins a new episode when its point has arrived."""
    random = np.random.default_rng(0)
    position = random.uniform(-2.0, 2.0, (NUM_ENVS, 2)).astype(np.float32)
    episodes = 0
    policy.reset(task="go to the origin")
    for _ in range(50):
        slot = policy.loan()  # writable arrays in shared memory, of what the policy asked for
        slot["policy/position"][:] = position
        if "camera_obs/top_rgb" in slot:  # GainPolicy does not ask for it, so it is neither rendered nor carried
            for env_id in range(NUM_ENVS):
                render(position[env_id], slot["camera_obs/top_rgb"][env_id])
        position += policy.act(slot)["action"]  # (NUM_ENVS, 2); the slot is spent
        arrived = np.flatnonzero(np.linalg.norm(position, axis=1) < 0.05)
        if len(arrived):
            episodes += len(arrived)
            position[arrived] = random.uniform(-2.0, 2.0, (len(arrived), 2))
            policy.reset(env_ids=arrived, task="go to the origin")
    return episodes


def main():
    """Start a host, run, and stop the host. Usually someone else has started it, in another container."""
    policy_type = f"{Path(__file__).with_name('gain_policy.py')}:GainPolicy"
    offered = [
        shmbridge.TensorSpec("policy/position", (2,), "float32", unit="m"),
        shmbridge.TensorSpec("camera_obs/top_rgb", (64, 64, 3), "uint8", unit="sRGB"),
    ]
    host = subprocess.Popen([sys.executable, "-m", "shmbridge", "serve", "--name", HOST, "--policy_type", policy_type])
    try:
        with shmbridge.connect(f"shm://{HOST}", observation_specs=offered, num_envs=NUM_ENVS, start_timeout=60) as policy:
            print(f"{simulate(policy)} episodes")
            policy.stop_host()
    finally:
        host.terminate()
        host.wait()


if __name__ == "__main__":
    main()
