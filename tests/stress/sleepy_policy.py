"""A policy that takes as long as it is asked to."""

import time

from shmbridge.testing import MarkingPolicy


class SleepyPolicy(MarkingPolicy):
    """Sleeps ``mark - 1000`` seconds where a mark is above 1000."""

    def infer(self, session, observation, env_ids):
        time.sleep(max(0.0, float(observation["mark"].max()) - 1000))
        return super().infer(session, observation, env_ids)
