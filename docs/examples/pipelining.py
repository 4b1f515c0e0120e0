"""Simulate while the policy infers: the two halves of ``infer``, with one observation under way while the next is made."""

import multiprocessing
import os
import time

import numpy as np

import shmbridge

HOST = f"example-{os.getpid()}"


class SlowPolicy(shmbridge.Policy):
    """Takes 20 ms."""

    def specs(self, offered):
        return shmbridge.PolicySpecs(list(offered.values()), [shmbridge.TensorSpec("action", (), "int64")])

    def infer(self, session, observation, env_ids):
        time.sleep(0.02)
        return {"action": observation["count"][:, None].copy()}


def host_main(name):
    """Serve in a process of its own. A ``with`` block is all that a library needs: sockets and policy have threads of their own."""
    with shmbridge.serve(SlowPolicy(), f"shm://{name}") as host:
        host.wait()


def main():
    """Let each answer be polled one step after its observation was submitted."""
    process = multiprocessing.get_context("spawn").Process(target=host_main, args=(HOST,))
    process.start()
    example = {"count": np.zeros(1, np.int64)}
    with shmbridge.connect(f"shm://{HOST}", example=example, num_envs=1, slots=3, start_timeout=60) as policy:
        policy.submit(example)
        for count in range(1, 20):
            policy.submit({"count": np.array([count])})  # the policy works on it while the simulator works on the next
            time.sleep(0.02)  # the simulator
            reply = policy.poll(timeout=None)
            assert reply["action"][0, 0] == count - 1  # answers come in order
            assert (reply.step[0], reply.age[0]) == (count - 1, 1)  # and say which step they answer, and how long ago that was
        policy.poll(timeout=None)
        policy.stop_host()
    process.join()
    print(f"20 observations answered, the last reply was {reply.age[0]} step old")


if __name__ == "__main__":
    main()
