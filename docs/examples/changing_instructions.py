"""Instructions that change between episodes and within them, per environment."""

import numpy as np

import shmbridge

DIRECTIONS = {"": 0.0, "go left": -1.0, "go right": 1.0}


class ObedientPolicy(shmbridge.Policy):
    """Goes where it is told, in chunks of eight actions."""

    def specs(self, offered):
        return shmbridge.PolicySpecs(list(offered.values()), [shmbridge.TensorSpec("action", (), "float32")], horizon=8)

    def new_session(self, num_envs):
        return [""] * num_envs

    def reset(self, session, env_ids, task):
        for env_id, text in zip(env_ids, task, strict=True):
            session[env_id] = text

    def instruct(self, session, env_ids, task):  # without this method, the policy refuses: see DeafPolicy
        self.reset(session, env_ids, task)  # there is nothing else here that belongs to an episode

    def infer(self, session, observation, env_ids):
        direction = np.array([DIRECTIONS[session[env_id]] for env_id in env_ids], np.float32)
        return {"action": np.repeat(direction[:, None], 8, axis=1)}


class DeafPolicy(ObedientPolicy):
    """Takes instructions at the beginning of an episode only, as most do."""

    instruct = shmbridge.Policy.instruct


def main():
    """Tell, and tell again."""
    observation = {"position": np.zeros(2, np.float32)}
    with shmbridge.connect(ObedientPolicy(), example=observation, num_envs=2) as policy:
        policy.reset(task=["go left", "go right"])
        print("told at the beginning:     ", policy.act(observation)["action"].tolist())
        policy.instruct(env_ids=[1], task="go left")  # what is left of its chunk is not played
        print("1 told in the middle:      ", policy.act(observation)["action"].tolist())
        policy.reset(env_ids=[0], task="go right")
        print("0 in another episode:      ", policy.act(observation)["action"].tolist())
        print("requests, rows inferred:   ", policy.statistics().requests, policy.statistics().rows)
    with shmbridge.connect(DeafPolicy(), example=observation, num_envs=2) as policy:
        policy.instruct(task="go left")  # before the first observation: the episodes begin with it
        policy.act(observation)
        policy.instruct(task="go right")
        try:
            policy.act(observation)
        except shmbridge.PolicyError as error:
            print("refused:", error)
        policy.reset(task="go right")
        print("after a reset:             ", policy.act(observation)["action"].tolist())


if __name__ == "__main__":
    main()
