"""A simulator that does not wait for its policy: the policy gets the newest observation as soon as it is free, and the others are dropped."""

import multiprocessing
import os
import time

import numpy as np

import shmbridge

HOST = f"example-{os.getpid()}"
STEPS = 200


class SlowPolicy(shmbridge.Policy):
    """Takes 20 ms."""

    def specs(self, offered):
        return shmbridge.PolicySpecs(list(offered.values()), [shmbridge.TensorSpec("action", (), "int64")])

    def infer(self, session, observation, env_ids):
        time.sleep(0.02)
        return {"action": observation["count"][:, None].copy()}


def host_main(name):
    """Serve in a process of its own."""
    with shmbridge.serve(SlowPolicy(), f"shm://{name}") as host:
        host.wait()


def simulate(policy):
    """Step every 5 ms, by the newest answer that is there; return how old each was when it came."""
    ages, action = [], 0
    for step in range(STEPS):
        policy.submit({"count": np.array([step])})  # sent if the policy has answered the one before, else dropped and counted
        time.sleep(0.005)  # the simulator makes a step with the newest action there is
        reply = policy.poll(timeout=0)  # the newest answer, or None
        if reply is not None:
            action = reply["action"][0]
            assert action == reply.step[0]  # it says which step's observation it answers
            ages.append(int(reply.age[0]))  # and how many steps ago that was
    return ages


def main():
    """Run the simulator beside a host."""
    process = multiprocessing.get_context("spawn").Process(target=host_main, args=(HOST,))
    process.start()
    with shmbridge.connect(f"shm://{HOST}", example={"count": np.zeros(1, np.int64)}, num_envs=1, latest_only=True, start_timeout=60) as policy:
        ages = simulate(policy)
        counted = policy.statistics()
        policy.stop_host()
    process.join()
    assert counted.requests + counted.dropped == counted.steps == STEPS
    print(f"{STEPS} steps: {counted.requests} observations sent, {counted.dropped} dropped")
    print(f"{len(ages)} answers, {min(ages)} to {max(ages)} steps old when they came")


if __name__ == "__main__":
    main()
