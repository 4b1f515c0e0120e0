"""Count what ten environments that have drifted apart cost a policy, per way of asking for action chunks.

Each episode is 48 steps long and a chunk 16, but no two environments begin their episodes together: environment 1 begins 3 steps after environment 0,
environment 2 another 3 steps later, and so on.
"""

import numpy as np

import shmbridge

NUM_ENVS, HORIZON, EPISODE, APART, STEPS = 10, 16, 48, 3, 480
SCHEDULERS = {
    "refill=all": {"refill": "all"},
    "refill=empty": {"refill": "empty"},
    "refill=all, replan_steps=8": {"refill": "all", "replan_steps": 8},
    "refill=empty, replan_steps=8": {"refill": "empty", "replan_steps": 8},
    "refill=empty, latency_steps=4": {"refill": "empty", "latency_steps": 4},
    "refill=all, latency_steps=4": {"refill": "all", "latency_steps": 4},
}


class CountingPolicy(shmbridge.Policy):
    """Counts how often it is asked, and for how many environments."""

    requests = rows = 0

    def specs(self, offered):
        return shmbridge.PolicySpecs(list(offered.values()), [shmbridge.TensorSpec("action", (), "float32")], HORIZON)

    def warm_up(self, session, observation, env_ids):
        return None  # it would be counted

    def infer(self, session, observation, env_ids):
        self.requests += 1
        self.rows += len(env_ids)
        return {"action": np.zeros((len(env_ids), HORIZON), np.float32)}


def drifted(step):
    """Return the environments that begin an episode at this step; at the first one all do."""
    return [env_id for env_id in range(NUM_ENVS) if step == 0 or (step - APART * env_id) % EPISODE == 0]


def count(**options):
    """Play, and return how often the policy was asked and how many rows it inferred."""
    policy, observation = CountingPolicy(), {"state": np.zeros((NUM_ENVS, 3), np.float32)}
    with shmbridge.connect(policy, example=observation, num_envs=NUM_ENVS, **options) as client:
        for step in range(STEPS):
            if env_ids := drifted(step):
                client.reset(env_ids)
            client.act(observation)
        counted = client.statistics()
    assert (counted.requests, counted.rows) == (policy.requests, policy.rows)
    return policy.requests, policy.rows


def main():
    """Print one line per scheduler."""
    print(f"{NUM_ENVS} environments, {STEPS} steps, episodes of {EPISODE}, chunks of {HORIZON}")
    print(f"{'scheduler':32}{'requests':>10}{'rows inferred':>15}{'rows per step':>15}")
    for name, options in SCHEDULERS.items():
        requests, rows = count(**options)
        print(f"{name:32}{requests:>10}{rows:>15}{rows / STEPS:>15.3f}")


if __name__ == "__main__":
    main()
