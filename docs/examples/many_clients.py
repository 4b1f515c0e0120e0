"""Three simulators on one host, at once: each with its own number of environments, chunks and pace, and with actions as if it were alone."""

import multiprocessing
import os
import time

import numpy as np

import shmbridge

HOST = f"example-{os.getpid()}"
STEPS = 30
SIMULATORS = {
    "one arm": {"num_envs": 1, "seconds": 0.01, "options": {}},
    "ten arms": {"num_envs": 10, "seconds": 0.02, "options": {"replan_steps": 2}},
    "three slow arms": {"num_envs": 3, "seconds": 0.05, "options": {"latency_steps": 1}},
}


class AddingPolicy(shmbridge.Policy):
    """Adds up what it sees. The sums belong to the client, so they live in its session: two clients never share one."""

    def specs(self, offered):
        return shmbridge.PolicySpecs(list(offered.values()), [shmbridge.TensorSpec("action", (), "int64")], horizon=4)

    def new_session(self, num_envs):
        return np.zeros(num_envs, np.int64)

    def reset(self, session, env_ids, task):
        session[list(env_ids)] = 0

    def infer(self, session, observation, env_ids):
        session[list(env_ids)] += observation["seen"]
        return {"action": session[list(env_ids), None] + np.arange(4)}


def simulate(policy, num_envs, seconds):
    """Return every action taken."""
    random, actions = np.random.default_rng(num_envs), []
    for _ in range(STEPS):
        actions.append(policy.act({"seen": random.integers(0, 100, num_envs)})["action"].tolist())
        time.sleep(seconds)
    return actions


def simulator_main(name, kind, results):
    """Run one simulator in a process of its own."""
    num_envs, seconds, options = SIMULATORS[kind].values()
    with shmbridge.connect(f"shm://{name}", example={"seen": np.zeros(num_envs, np.int64)}, num_envs=num_envs, **options) as policy:
        results.put((kind, simulate(policy, num_envs, seconds)))


def alone(num_envs, seconds, options):
    """Return the actions that a simulator takes with a policy of its own."""
    with shmbridge.connect(AddingPolicy(), example={"seen": np.zeros(num_envs, np.int64)}, num_envs=num_envs, **options) as policy:
        return simulate(policy, num_envs, seconds=0.0)


def main():
    """Run all of them on one host, then each with a policy of its own."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with shmbridge.serve(AddingPolicy(), f"shm://{HOST}", max_sessions=len(SIMULATORS)) as host:
        processes = [context.Process(target=simulator_main, args=(HOST, kind, results)) for kind in SIMULATORS]
        for process in processes:
            process.start()
        actions = dict(results.get(timeout=60) for _ in processes)
        for process in processes:
            process.join()
        print(f"{host.statistics().served} simulators were served")
    for kind, settings in SIMULATORS.items():
        assert actions[kind] == alone(*settings.values())
        print(f"{kind}: {STEPS} steps, the same actions as alone")


if __name__ == "__main__":
    main()
