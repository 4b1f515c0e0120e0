"""Several clients on one host: each is served in its turn, and acts as it does alone, whatever becomes of the others."""

import itertools
import json
import os
import signal
import threading

import numpy as np
import psutil
import pytest
import sample_policies as sample
from helpers import GIVE_UP_SECONDS, TESTS, Child, eventually, ours_in_shm
from stress.crowd_player import Player, connect, options_of
from stress.crowd_policy import Remembering
from stress.disturber import KINDS

import shmbridge
from shmbridge.connecting import describe_host
from shmbridge.errors import HostBusyError, HostNotFoundError
from shmbridge.testing import unique_name

pytestmark = pytest.mark.slow

SERVE = "import sys; from shmbridge.cli import main; sys.exit(main(sys.argv[1:]))"
PLAY = """
import json, sys
from stress.crowd_player import Player, connect
name, seed = sys.argv[1], int(sys.argv[2])
with connect(name, seed) as client:
    player = Player(client, seed)
    print("joined")
    for moves in sys.stdin:
        player.play(int(moves))
        print("played", player.digest)
    counted = client.statistics()
    print("counted", json.dumps([counted.requests, counted.observation_ring.moved, counted.action_ring.moved, counted.discarded]))
"""
DISTURB = "from stress.disturber import main; main()"
SEEDS = (1, 5, 7)
LEGS = (20, 80, 20)


def serve(name, *flags):
    """Start a host as users do, of a policy that remembers all it was shown."""
    policy = f"{TESTS / 'stress' / 'crowd_policy.py'}:Remembering"
    host = Child(SERVE, "serve", "--name", name, "--policy_type", policy, "--infer_ms", "1", *flags)
    eventually(lambda: _is_up(name), "the host")
    return host


def _is_up(name):
    try:
        return describe_host(name, timeout=GIVE_UP_SECONDS)
    except HostNotFoundError:
        return None


def stop(host):
    host.interrupt()
    assert host.finish() == 130, host.errors
    host.kill()


@pytest.fixture
def host(unique_name):
    child = serve(unique_name, "--max_sessions", "6", "--timeout_ms", "300")
    yield child
    stop(child)
    assert ours_in_shm(unique_name) == []


@pytest.fixture(scope="module")
def alone():
    """What each simulator sees when there is no other on its host: a digest per leg."""
    name = unique_name()
    host = serve(name)
    digests = {}
    for seed in SEEDS:
        with connect(name, seed) as client:
            player = Player(client, seed)
            digests[seed] = [(player.play(moves), player.digest)[1] for moves in LEGS]
    stop(host)
    return digests


class Simulators:
    """Well-behaved clients, one process each, that make their moves when told to."""

    def __init__(self, start, name):
        self._children = {seed: start(PLAY, name, seed) for seed in SEEDS}
        for child in self._children.values():
            child.expect("joined")

    def begin(self, leg):
        for child in self._children.values():
            child.tell(str(LEGS[leg]))

    def finish(self):
        """Return where each stands now."""
        return {seed: child.expect("played") for seed, child in self._children.items()}

    def end(self):
        for child in self._children.values():
            child.process.stdin.close()
            requests, sent, answered, discarded = json.loads(child.expect("counted"))
            assert (sent, answered, discarded) == (requests, requests, 0), "an answer was lost"
            assert child.finish() == 0, child.errors


def play_beside(simulators, disturb, alone):
    """Let the simulators play, the second leg while they are disturbed; each must act as it does alone."""
    for leg in range(len(LEGS)):
        if leg == 1:
            disturb[0]()
        simulators.begin(leg)
        if leg == 1:
            disturb[1]()
        assert simulators.finish() == {seed: alone[seed][leg] for seed in SEEDS}, f"somebody acted differently in leg {leg}"
    simulators.end()


def nothing():
    """Do not disturb."""


def test_simulators_of_different_kinds_act_on_one_host_as_each_alone(unique_name, host, start, alone):
    kinds = [options_of(seed) for seed in SEEDS]
    assert len({options["num_envs"] for options in kinds}) == len(SEEDS), "choose seeds that differ"
    assert len({options["observation_specs"][0].name for options in kinds}) == len(SEEDS), "choose seeds that differ"
    play_beside(Simulators(start, unique_name), (nothing, nothing), alone)


def test_a_simulator_acts_alone_on_a_host_as_with_a_policy_in_its_process(alone):
    for seed in SEEDS:
        with shmbridge.connect(Remembering(), **options_of(seed)) as client:
            player = Player(client, seed)
            assert [(player.play(moves), player.digest)[1] for moves in LEGS] == alone[seed]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_client_of_any_kind_changes_nothing_for_the_others(unique_name, host, start, alone, kind):
    simulators = Simulators(start, unique_name)
    children = []

    def disturb():
        children.append(start(DISTURB, unique_name, kind))
        children[0].expect("disturbing:")

    play_beside(simulators, (disturb, nothing), alone)
    assert children[0].process.poll() is None, children[0].errors
    connect(unique_name, SEEDS[0]).close()  # nor is the door shut


def test_answers_that_nobody_reads_do_not_pile_up(unique_name, host, start):
    """A hundred bytes each, so that what is kept would be 10 MB after every hundred thousand questions."""
    disturber = start(DISTURB, unique_name, "asks and does not listen")
    disturber.expect("disturbing:")
    before = psutil.Process(host.pid).memory_info().rss
    for _ in range(4):
        disturber.expect("disturbing:")
    assert psutil.Process(host.pid).memory_info().rss - before < 16 << 20


WHY = {
    "leaves numbers out": "found 5 of",
    "repeats a number": "expected observation 2 of",
    "speaks for another session": "expected observation 1 of",
    "never takes answers": "does not take the answers",
    "says half a message": "--timeout_ms",
    "says what is no message": "a message of 4294967295 bytes",
    "never attaches": "hung up",
    "lets the policy fail": "told to fail",
    "asks for what nobody has": "unheard_of",
}


@pytest.mark.parametrize("kind", WHY)
def test_who_breaks_the_rules_is_told_which(unique_name, host, start, kind):
    assert WHY[kind] in start(DISTURB, unique_name, kind).expect("disturbing:")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_client_that_falls_silent_while_it_is_served_changes_nothing_for_the_others(unique_name, host, start, alone, number):
    simulators = Simulators(start, unique_name)
    silenced = start(DISTURB, unique_name, "asks all the time")
    silenced.expect("disturbing:")
    play_beside(simulators, (nothing, lambda: os.kill(silenced.pid, number)), alone)


def test_a_stopped_client_goes_on_where_it_was(unique_name, host, start, alone):
    stopped = start(PLAY, unique_name, SEEDS[1])
    other = start(PLAY, unique_name, SEEDS[2])
    stopped.expect("joined")
    for leg, moves in enumerate(LEGS):
        stopped.tell(str(moves))
        os.kill(stopped.pid, signal.SIGSTOP)
        other.tell(str(moves))
        assert other.expect("played") == alone[SEEDS[2]][leg]
        os.kill(stopped.pid, signal.SIGCONT)
        assert stopped.expect("played") == alone[SEEDS[1]][leg]


QUEUED = 16
TURNS = 30
NUMBERING = """
import sys, threading, time
import numpy as np
import shmbridge

class Numbering(shmbridge.Policy):
    count, gate = 0, threading.Event()

    def specs(self, offered):
        return shmbridge.PolicySpecs(list(offered.values()), [shmbridge.TensorSpec("action", (), "int64")])

    def warm_up(self, session, observation, env_ids):
        return None

    def infer(self, session, observation, env_ids):
        self.gate.wait(60)
        time.sleep(0.02)
        self.count += 1
        return {"action": np.full((len(env_ids), 1), self.count)}

with shmbridge.serve(Numbering(), f"shm://{sys.argv[1]}", max_sessions=8):
    print("up")
    sys.stdin.readline()
    Numbering.gate.set()
    sys.stdin.readline()
"""
QUEUE = f"""
import json, sys
import numpy as np
import shmbridge
observation = {{"q": np.zeros((int(sys.argv[2]), 3), np.float32)}}
with shmbridge.connect(f"shm://{{sys.argv[1]}}", example=observation, num_envs=int(sys.argv[2]), slots={QUEUED}) as client:
    print("joined")
    sys.stdin.readline()
    for _ in range({QUEUED}):
        client.submit(observation)
    print("waiting")
    places = []
    for turn in range({TURNS}):
        places.append(int(client.poll(timeout=60)["action"].flat[0]))
        if turn < {TURNS - QUEUED}:
            client.submit(observation)
    print("places", json.dumps(places))
"""


def test_clients_that_always_wait_are_answered_in_turn(unique_name, start):
    """Between two answers of one, each other gets exactly one. The policy numbers its answers, so that the order is known."""
    host = start(NUMBERING, unique_name)
    host.expect("up")
    clients = [start(QUEUE, unique_name, num_envs) for num_envs in (1, 3, 10, 2)]
    for client in clients:
        client.expect("joined")
    for client in clients:
        client.tell("submit")
        client.expect("waiting")
    host.tell("begin")
    places = [json.loads(client.expect("places")) for client in clients]
    host.tell("end")
    assert host.finish() == 0, host.errors
    order = [client for _, client in sorted((place, client) for client, answered in enumerate(places) for place in answered)]
    assert len(order) == TURNS * len(clients)
    assert max(_between(order, len(clients))) == min(_between(order, len(clients))) == 1


def _between(order, clients):
    """Return how many answers each client got between any two consecutive ones of any other, while all were waiting."""
    first = max(order.index(client) for client in range(clients))
    last = min(len(order) - 1 - order[::-1].index(client) for client in range(clients))
    found = []
    for client in range(clients):
        turns = [place for place in range(first, last + 1) if order[place] == client]
        for begin, end in itertools.pairwise(turns):
            found += [order[begin:end].count(other) for other in range(clients) if other != client]
    return found


class SlowToBegin(sample.Affine):
    """Takes 20 ms to begin a session, and counts them."""

    begun = 0

    def new_session(self, num_envs):
        self.begun += 1
        threading.Event().wait(0.02)


def test_clients_that_come_and_go_let_a_served_one_have_its_turn(unique_name):
    policy, stopping = SlowToBegin(), threading.Event()
    observation = {"q": np.zeros((1, 3), np.float32)}
    address, kind = f"shm://{unique_name}", {"example": observation, "num_envs": 1}

    def come_and_go():
        while not stopping.is_set():
            shmbridge.connect(address, **kind).close()

    with shmbridge.serve(policy, address, max_sessions=20), shmbridge.connect(address, **kind) as client:
        crowd = [threading.Thread(target=come_and_go) for _ in range(8)]
        for one in crowd:
            one.start()
        try:
            begun = []
            for _ in range(20):
                client.infer(observation, timeout=GIVE_UP_SECONDS)
                begun.append(policy.begun)
        finally:
            stopping.set()
            for one in crowd:
                one.join()
    assert max(np.diff(begun)) <= len(crowd), "more clients were let in between two answers than were waiting at the door"


def test_one_client_too_many_is_refused_by_name_and_a_killed_ones_place_is_free_at_once(unique_name, start):
    host = serve(unique_name, "--max_sessions", "3")
    clients = [start(PLAY, unique_name, seed) for seed in SEEDS]
    for client in clients:
        client.expect("joined")
    for turn in range(len(SEEDS)):
        with pytest.raises(HostBusyError, match=r"takes 3 client\(s\) at a time \(--max_sessions\)") as refusal:
            connect(unique_name, SEEDS[turn])
        assert all(f"client {client.pid} on" in str(refusal.value) for client in clients)
        clients[turn].tell("100000")
        clients[turn].kill()
        clients[turn] = start(PLAY, unique_name, SEEDS[turn])
        clients[turn].expect("joined")
    for client in clients:
        client.kill()
    eventually(lambda: not describe_host(unique_name, timeout=GIVE_UP_SECONDS).clients)
    stop(host)


def test_a_stopped_client_keeps_its_place(unique_name, start):
    host = serve(unique_name, "--max_sessions", "1")
    client = start(PLAY, unique_name, SEEDS[0])
    client.expect("joined")
    os.kill(client.pid, signal.SIGSTOP)
    with pytest.raises(HostBusyError, match=f"client {client.pid} on"):
        connect(unique_name, SEEDS[0])
    client.kill()
    connect(unique_name, SEEDS[0]).close()
    stop(host)
