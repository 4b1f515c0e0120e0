"""What both halves count, seen from inside: the same numbers that ``shmbridge ls`` and ``shmbridge inspect`` show from outside."""

import os

import numpy as np
from gain_policy import GainConfig, GainPolicy  # the file beside this one

import shmbridge

ADDRESS = f"shm://example-{os.getpid()}"


def main():
    """Serve a policy, use it for a while, and look."""
    observation = {"policy/position": np.ones((3, 2), np.float32)}
    with (
        shmbridge.serve(GainPolicy(GainConfig()), ADDRESS) as host,
        shmbridge.connect(ADDRESS, example=observation, num_envs=3) as policy,
    ):
        for _ in range(10):
            policy.act(observation)
        here, there = policy.statistics(), host.statistics()
    print(f"this side: {here.steps} steps, {here.requests} requests for {here.rows} rows, {here.dropped} observations dropped")
    print(f"its observation ring: {here.observation_ring}")
    for name, served in there.clients.items():
        print(f"{name}: {served.requests} answered in {served.infer_seconds * 1e3:.1f} ms, {served.failures} failures")


if __name__ == "__main__":
    main()
