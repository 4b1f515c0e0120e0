"""A policy that sees several past observations at a time. It says how many; the client stacks them, per environment and episode."""

import numpy as np

import shmbridge

STEPS = 3


class VelocityPolicy(shmbridge.Policy):
    """Brakes: pushes against the mean velocity over the last positions."""

    def specs(self, offered):
        position = shmbridge.TensorSpec("position", (2,), "float32", unit="m")
        action = shmbridge.TensorSpec("push", (2,), "float32")
        return shmbridge.PolicySpecs(observation=[position], action=[action], observation_steps=STEPS)

    def infer(self, session, observation, env_ids):
        past = observation["position"]  # (len(env_ids), STEPS, 2), oldest first; nothing need be kept from call to call
        return {"push": (past[:, :1] - past[:, -1:]) / (STEPS - 1)}  # (len(env_ids), horizon = 1, 2)


def main():
    """Begin a new episode in one environment on the way."""
    position = np.array([[0.0, 0.0], [5.0, 5.0]], np.float32)
    with shmbridge.connect(VelocityPolicy(), example={"position": position}, num_envs=2) as policy:
        pushes = []
        for step in range(5):
            if step == 3:
                position[1] = 9.0  # environment 1 begins a new episode somewhere else:
                policy.reset(env_ids=[1])  # its first observation stands for the past that it does not have
            pushes.append(policy.act({"position": position})["push"])  # the caller gives the newest observation only
            position += 1.0
    for step, push in enumerate(pushes):
        print(f"step {step}: push {push[0].tolist()} and {push[1].tolist()}")
    assert [push[0, 0] for push in pushes] == [0.0, -0.5, -1.0, -1.0, -1.0]
    assert [push[1, 0] for push in pushes] == [0.0, -0.5, -1.0, 0.0, -0.5]


if __name__ == "__main__":
    main()
