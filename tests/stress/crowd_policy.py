"""A policy that remembers everything it was ever shown, so that an observation lost, doubled or mixed up changes all later actions."""

import re
import time
import zlib
from dataclasses import dataclass

import numpy as np

import shmbridge

MODULUS = 1_000_003
FAIL = "fail"
"""A task at which it raises."""


@dataclass(frozen=True)
class RememberingConfig:
    """How long one inference takes."""

    infer_ms: float = 0.0


class Remembering(shmbridge.Policy):
    """Folds each observation into one number per environment and acts by it. Whole numbers only, so every row is exact in any batch.

    It takes all that is offered. The names of the tensors say what chunks are wanted: ``horizon_H/steps_S/NAME``.
    """

    config_type = RememberingConfig

    def __init__(self, config=None):
        super().__init__(config or RememberingConfig())

    def specs(self, offered):
        horizon, steps = _wanted(offered)
        return shmbridge.PolicySpecs(list(offered.values()), [shmbridge.TensorSpec("action", (2,), "int64")], horizon, steps)

    def new_session(self, num_envs):
        return np.zeros(num_envs, np.int64)

    def reset(self, session, env_ids, task):
        if FAIL in task:
            raise ValueError("told to fail")
        session[list(env_ids)] = [_number(text) for text in task]

    def instruct(self, session, env_ids, task):
        session[list(env_ids)] += [_number(text) for text in task]

    def warm_up(self, session, observation, env_ids):
        return None

    def infer(self, session, observation, env_ids):
        time.sleep(self.config.infer_ms / 1000)
        rows, (horizon, _) = list(env_ids), _wanted(observation)
        session[rows] = (31 * session[rows] + sum(_fold(array) for array in observation.values())) % MODULUS
        chunk = np.empty((len(rows), horizon, 2), np.int64)
        chunk[..., 0] = session[rows, None] + np.arange(horizon)
        chunk[..., 1] = np.asarray(rows)[:, None]
        return {"action": chunk}


def _wanted(names):
    """Return the horizon and the number of stacked observations that the names ask for."""
    found = re.match(r"horizon_(\d+)/steps_(\d+)/", next(iter(names)))
    if found is None:
        raise shmbridge.SpecError(f"expected names like horizon_4/steps_1/state, found {', '.join(names)}")
    return int(found[1]), int(found[2])


def _number(task):
    return zlib.crc32(task.encode()) % MODULUS


def _fold(array):
    """Return one whole number per row; the order of the elements counts."""
    flat = array.reshape(len(array), -1).astype(np.int64)
    return (flat * (1 + np.arange(flat.shape[1]) % 7)).sum(axis=1)
