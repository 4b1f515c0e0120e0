"""Simulators that differ in everything, and whose every move depends on their seed alone."""

import hashlib
import random

import numpy as np

import shmbridge

PATIENCE_SECONDS = 120.0


def options_of(seed):
    """Return what a simulator of this seed gives to ``connect``: its own specs, environments, slots and chunks."""
    rng = random.Random(seed)
    prefix = f"horizon_{rng.choice((1, 4, 16))}/steps_{rng.choice((1, 1, 3))}"
    specs = [shmbridge.TensorSpec(f"{prefix}/state", (rng.randint(1, 5),), "int64")]
    if rng.random() < 0.4:
        specs.append(shmbridge.TensorSpec(f"{prefix}/camera", (48, 64, 3), "uint8"))
    return {
        "observation_specs": specs,
        "num_envs": rng.choice((1, 2, 3, 5, 10)),
        "slots": rng.choice((2, 3)),
        "refill": rng.choice(("empty", "all")),
        "replan_steps": rng.choice((None, 3)),
        "latency_steps": rng.choice((0, 0, 2)),
    }


def connect(name, seed, **options):
    """Open the session of this seed with a host, which may take its time."""
    return shmbridge.connect(f"shm://{name}", timeout=PATIENCE_SECONDS, start_timeout=PATIENCE_SECONDS, **{**options_of(seed), **options})


class Player:
    """Plays one session. With a ``mirror``, a session with a policy in this process, every reply is compared with what that one gives.

    Attributes:
        replies: How many were read.
        wrong: What differed first; empty if nothing did.
    """

    def __init__(self, client, seed, mirror=None):
        self._clients = (client,) if mirror is None else (client, mirror)
        self._num_envs = client.agreement.num_envs
        self._specs = client.specs.observation
        self._rng = np.random.default_rng(seed)
        self._hash = hashlib.sha256()
        self.replies, self.wrong = 0, ""

    @property
    def digest(self):
        """SHA-256 of all that came back: actions, whose they are, and the steps they answer."""
        return self._hash.hexdigest()

    def play(self, moves):
        for _ in range(moves):
            MOVES[self._rng.integers(len(MOVES))](self)

    def _observe(self):
        return {spec.name: self._rng.integers(0, 200, (self._num_envs, *spec.shape)).astype(spec.storage) for spec in self._specs}

    def _some(self):
        return np.flatnonzero(self._rng.random(self._num_envs) < 0.5).tolist()

    def _task(self):
        return f"task {self._rng.integers(1000)}"

    def act(self):
        observation = self._observe()
        self._check([client.act(observation) for client in self._clients])

    def act_in_place(self):
        observation = self._observe()
        self._check([client.act(_filled(client.loan(), observation)) for client in self._clients])

    def infer(self):
        observation = self._observe()
        self._check([client.infer(observation) for client in self._clients])

    def submit(self):
        """Two under way, and a reset between their answers."""
        observations, some = (self._observe(), self._observe()), self._some()
        for client in self._clients:
            for observation in observations:
                client.submit(observation)
        self._check([client.poll(timeout=None) for client in self._clients])
        for client in self._clients:
            client.reset(some, "between")
        self._check([client.poll(timeout=None) for client in self._clients])

    def reset_some(self):
        some, task = self._some(), self._task()
        for client in self._clients:
            client.reset(some, task)

    def reset_all(self):
        for client in self._clients:
            client.reset()

    def instruct(self):
        some = self._some()
        tasks = [self._task() for _ in some]
        for client in self._clients:
            client.instruct(some, tasks)

    def _check(self, replies):
        said = [b"".join(np.ascontiguousarray(part).tobytes() for part in (reply["action"], reply.valid, reply.step)) for reply in replies]
        self._hash.update(said[0])
        if said[0] != said[-1] and not self.wrong:
            self.wrong = f"reply {self.replies} was {replies[0]} with {replies[0]['action'].tolist()}, not {replies[-1]} with {replies[-1]['action'].tolist()}"
        self.replies += 1


def _filled(slot, observation):
    for name, value in observation.items():
        slot[name][...] = value
    return slot


MOVES = [
    *[Player.act] * 8,
    *[Player.act_in_place] * 4,
    *[Player.infer] * 2,
    *[Player.submit] * 2,
    Player.reset_some,
    Player.reset_all,
    Player.instruct,
]
"""What a player does, each as often as it stands here."""
