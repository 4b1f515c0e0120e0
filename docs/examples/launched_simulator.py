"""A simulator of your own as a program of a launch file.

Run it with:

    shmbridge launch docs/examples/point.yaml

Alone, it runs with the policy in its own process.
"""

import sys

import numpy as np
from gain_policy import GainConfig, GainPolicy  # the file beside this one

import shmbridge

NUM_ENVS = 3


def main():
    """Move the points towards the origin, and say how near they came."""
    host = sys.argv[1] if len(sys.argv) > 1 else GainPolicy(GainConfig())
    position = np.ones((NUM_ENVS, 2), np.float32)
    with shmbridge.connect(host, example={"policy/position": position}, num_envs=NUM_ENVS) as policy:
        policy.reset(task="go to the origin")
        for _ in range(20):
            position += policy.act({"policy/position": position})["action"]
    print(f"Metrics: {{'distance': {np.abs(position).max():.3f}}}")


if __name__ == "__main__":
    main()
