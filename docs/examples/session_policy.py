"""A policy with state per client: it remembers each environment's last positions and its task, and two clients share nothing."""

import numpy as np

import shmbridge

STEPS = 3


class History:
    """What one client's environments did: the last ``STEPS`` positions of each, and what each is to do."""

    def __init__(self, num_envs):
        self.positions = np.zeros((num_envs, STEPS, 2), np.float32)
        self.tasks = [""] * num_envs


class SmoothPolicy(shmbridge.Policy):
    """Follows the mean of the last positions; an environment whose task is "wait" stays where it is."""

    def specs(self, offered):
        name = next((name for name in offered if name.endswith("position")), None)
        if name is None:
            raise shmbridge.SpecError(f"smooth needs a tensor whose name ends in 'position'; offered are {', '.join(offered)}")
        return shmbridge.PolicySpecs(observation=[offered[name]], action=[shmbridge.TensorSpec("action", (2,), "float32")])

    def new_session(self, num_envs):
        return History(num_envs)

    def reset(self, session, env_ids, task):
        for env_id, text in zip(env_ids, task, strict=True):
            session.positions[env_id] = 0.0
            session.tasks[env_id] = text

    def infer(self, session, observation, env_ids):
        (position,) = observation.values()  # the rows of env_ids; read-only, and lent until this returns
        session.positions[env_ids, :-1] = session.positions[env_ids, 1:]
        session.positions[env_ids, -1] = position  # copies
        moving = np.array([session.tasks[env_id] != "wait" for env_id in env_ids], np.float32)
        action = -0.1 * session.positions[env_ids].mean(axis=1) * moving[:, None]
        return {"action": action[:, None].astype(np.float32)}  # (len(env_ids), horizon = 1, 2)


if __name__ == "__main__":
    observation = {"position": np.ones((2, 2), np.float32)}
    with shmbridge.connect(SmoothPolicy(), example=observation, num_envs=2) as policy:
        policy.reset(task=["go", "wait"])
        for _ in range(3):
            print(policy.act(observation)["action"].tolist())
