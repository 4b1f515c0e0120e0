"""Who is inferred when, counted on real hosts: drifted environments, chunks that count later, stacked observations, latest-only, instructions."""

import importlib.util
import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sample_policies as sample
from helpers import GIVE_UP_SECONDS, eventually

import shmbridge
from shmbridge.connecting import describe_host
from shmbridge.errors import LocalProtocolError, PolicyError

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "count_inferences.py"


@pytest.fixture(scope="module")
def example():
    """The program that the documents show."""
    if not EXAMPLE.is_file():
        pytest.skip("the documents are not beside the tests")
    spec = importlib.util.spec_from_file_location("count_inferences", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def starts(example, env_id):
    """Return the steps at which an environment begins an episode, and the end."""
    return [step for step in range(example.STEPS) if env_id in example.drifted(step)] + [example.STEPS]


def chunks(step_numbers, played):
    """Return how many chunks fill the gaps between these steps if each is played for so many steps."""
    return sum(math.ceil((end - begin) / played) for begin, end in itertools.pairwise(step_numbers))


def played(example, options):
    """Return how many actions of a chunk are played: of the first ``replan_steps``, all but those that are too late to count."""
    return min(options.get("replan_steps") or example.HORIZON, example.HORIZON) - options.get("latency_steps", 0)


def rows_by_reasoning(example, options):
    """Return how many rows must be inferred.

    Each environment for itself needs a chunk whenever an episode begins and whenever the last one is used up. If all are asked for whenever one
    needs a chunk, all have a fresh one then; so only those steps count at which any episode begins, and each chunk costs a row of every environment.
    """
    everyone = range(example.NUM_ENVS)
    if options["refill"] == "empty":
        return sum(chunks(starts(example, env_id), played(example, options)) for env_id in everyone)
    any_starts = sorted({step for env_id in everyone for step in starts(example, env_id)})
    return example.NUM_ENVS * chunks(any_starts, played(example, options))


def test_drifted_environments_cost_exactly_the_rows_that_they_need(example):
    expected = {name: rows_by_reasoning(example, options) for name, options in example.SCHEDULERS.items()}
    assert {name: example.count(**options)[1] for name, options in example.SCHEDULERS.items()} == expected
    assert (expected["refill=all"], expected["refill=empty"]) == (1100, 309)


def test_the_example_prints_what_was_counted_and_the_documents_show_it(example):
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("refill=")]
    assert [line.split()[-3:-1] for line in lines] == [[str(number) for number in example.count(**options)] for options in example.SCHEDULERS.values()]
    shown = (EXAMPLE.parents[1] / "explanation" / "scheduling.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if f"    {line}" not in shown] == []


@pytest.mark.parametrize(
    "options", [{"refill": "empty"}, {"refill": "all"}, {"refill": "empty", "replan_steps": 8}, {"refill": "empty", "latency_steps": 4}], ids=str
)
def test_client_host_and_policy_count_the_same_rows(unique_name, example, options):
    policy, observation = example.CountingPolicy(), {"state": np.zeros((example.NUM_ENVS, 3), np.float32)}
    address = f"shm://{unique_name}"
    with shmbridge.serve(policy, address), shmbridge.connect(address, example=observation, num_envs=example.NUM_ENVS, **options) as client:
        for step in range(example.STEPS):
            if env_ids := example.drifted(step):
                client.reset(env_ids)
            client.act(observation)
        here, there = client.statistics(), describe_host(unique_name, timeout=GIVE_UP_SECONDS).clients[0].counters
        assert here.rows == there.rows == policy.rows == rows_by_reasoning(example, options)
        assert here.requests == there.requests == policy.requests == here.observation_ring.moved == here.action_ring.moved


Q = {"q": np.zeros((3, 3), np.float32)}


def q(*firsts):
    """Return an observation of as many environments."""
    return {"q": np.array([[first, 0.0, 0.0] for first in firsts], np.float32)}


@pytest.fixture
def held(unique_name):
    """A host whose policy waits when told to; tests let it go on with ``policy.gate.set()``."""
    policy = sample.Commanded()
    with shmbridge.serve(policy, f"shm://{unique_name}"):
        yield policy
        policy.gate.set()


def connect(name, **options):
    return shmbridge.connect(f"shm://{name}", example=Q, num_envs=3, timeout=GIVE_UP_SECONDS, **options)


def hold(client, policy):
    """Let the policy be busy with an observation until its gate is opened."""
    client.submit(q(sample.WAIT, 0, 0))
    assert policy.entered.wait(GIVE_UP_SECONDS)


def test_only_the_environments_whose_chunk_is_used_up_reach_the_policy(unique_name, held):
    with connect(unique_name) as client:
        for step in range(6):
            if step == 2:
                client.reset([1], "again")
            client.act(q(step, step, step))
    assert held.asked == [[0, 1, 2], [1], [0, 2]]
    assert held.resets == [([0, 1, 2], ["", "", ""]), ([1], ["again"])]


def test_with_simulated_latency_every_action_answers_an_observation_that_old(unique_name, held):
    """The policy's chunk holds the observation's number plus the place, so an action says which step it was planned for."""
    with connect(unique_name, latency_steps=3, replan_steps=1) as client:
        for step in range(12):
            reply = client.act(q(100 * step, 100 * step, 100 * step))
            made_at = max(0, step - 3)
            assert reply.step.tolist() == [made_at] * 3
            assert reply.age.tolist() == [step - made_at] * 3
            assert reply["action"][:, 0].tolist() == [100 * made_at + step - made_at] * 3


@pytest.mark.parametrize("options", [{}, {"latency_steps": 2}, {"replan_steps": 3, "latency_steps": 1, "refill": "all"}], ids=str)
def test_a_slow_host_changes_nothing_where_steps_are_counted(unique_name, held, options):
    def actions(client):
        return [client.act(q(step, 7 * step, step % 5))["action"].tolist() for step in range(30)]

    with connect(unique_name, **options) as client, shmbridge.connect(sample.Affine(), example=Q, num_envs=3, **options) as local:
        assert actions(client) == actions(local)


class Stacking(sample.Affine):
    """Gives back the first numbers of all that it sees of an environment."""

    horizon = 1

    def specs(self, offered):
        return shmbridge.PolicySpecs(offered.values(), [shmbridge.TensorSpec("action", (4,), "float32")], observation_steps=4)

    def infer(self, session, observation, env_ids):
        return {"action": observation["q"][..., 0][:, None].copy()}


def test_stacked_observations_are_those_of_the_running_episode(unique_name):
    seen = [[], [], []]
    address = f"shm://{unique_name}"
    with shmbridge.serve(Stacking(), address), connect(unique_name) as client:
        for step in range(10):
            if step in (3, 8):
                client.reset([1])
                seen[1].clear()
            for env_id in range(3):
                seen[env_id].append(10 * step + env_id)
            expected = [(4 * past[:1] + past)[-4:] for past in seen]
            assert client.act(q(*(10 * step + env_id for env_id in range(3))))["action"].tolist() == expected


def test_pipelined_observations_are_answered_in_order_and_say_how_old_they_are(unique_name, held):
    with connect(unique_name, slots=3) as client:
        hold(client, held)
        assert [client.submit(q(step, step, step)) for step in (1, 2)] == [1, 2]
        with pytest.raises(LocalProtocolError, match="3 answers are outstanding"):
            client.submit(q(9, 9, 9))
        client.reset([2])
        held.gate.set()
        replies = [client.poll(timeout=GIVE_UP_SECONDS) for _ in range(3)]
        assert [int(reply.step[0]) for reply in replies] == [0, 1, 2]
        assert [int(reply.age[0]) for reply in replies] == [2, 1, 0]
        assert [reply.valid.tolist() for reply in replies] == [[True, True, False]] * 3, "one of them began another episode since"


def test_latest_only_drops_what_a_busy_host_could_not_take_and_loses_no_reset(unique_name, held):
    with connect(unique_name, latest_only=True) as client:
        hold(client, held)
        client.reset([1], "first")
        assert [client.submit(q(step, step, step)) for step in (1, 2)] == [None, None]
        client.reset([2], "second")
        assert [client.submit(q(step, step, step)) for step in (3, 4)] == [None, None]
        assert client.poll() is None
        held.gate.set()
        reply = client.poll(timeout=GIVE_UP_SECONDS)
        assert (reply.step.tolist(), reply.age.tolist(), reply.valid.tolist()) == ([0, 0, 0], [4, 4, 4], [True, False, False])
        assert client.submit(q(5, 5, 5)) == 5
        reply = client.poll(timeout=GIVE_UP_SECONDS)
        assert (reply["action"][:, 0, 0].tolist(), reply.age.tolist(), reply.valid.tolist()) == ([5, 5, 5], [0, 0, 0], [True, True, True])
        counted = client.statistics()
        assert (counted.steps, counted.requests, counted.dropped) == (6, 2, 4)
    assert held.resets[1:] == [([1, 2], ["first", "second"])]


def test_an_answer_that_nobody_polled_gives_way_to_the_newest(unique_name, held):
    with connect(unique_name, latest_only=True) as client:
        for step in range(2):
            assert client.submit(q(step, step, step)) == step
            eventually(lambda: client.statistics().action_ring.full == step + 1, "the answer")  # noqa: B023  # waited for within the turn
        reply = client.poll()
        assert (reply["action"][0, 0, 0], reply.step[0], reply.age[0]) == (1, 1, 0)
        assert client.poll() is None
        assert client.statistics().discarded == 1


class Obedient(sample.Affine):
    """The action is the number that the environment was told last."""

    horizon = 4

    def new_session(self, num_envs):
        return np.zeros(num_envs, np.float32)

    def reset(self, session, env_ids, task):
        session[list(env_ids)] = [float(text or 0) for text in task]

    def instruct(self, session, env_ids, task):
        self.reset(session, env_ids, task)

    def infer(self, session, observation, env_ids):
        return {"action": np.broadcast_to(session[list(env_ids), None, None], (len(env_ids), 4, 3)).copy()}


def test_instructions_take_effect_at_once_and_in_their_environments_only(unique_name):
    with shmbridge.serve(Obedient(), f"shm://{unique_name}"), connect(unique_name) as client:

        def act():
            return client.act(Q)["action"][:, 0].tolist()

        client.reset(task=["1", "2", "3"])
        assert act() == [1, 2, 3]
        client.instruct([2], "5")
        client.instruct([2], "6")
        assert act() == [1, 2, 6]
        client.instruct([0], "7")
        client.reset([0], "8")
        client.reset([1], "9")
        client.instruct([1], "10")
        assert act() == [8, 10, 6]
        assert act() == [8, 10, 6]
        assert client.statistics().rows == 3 + 1 + 2


def test_a_policy_that_takes_no_instructions_refuses_until_the_environments_begin_anew(unique_name, held):
    held.gate.set()
    with connect(unique_name) as client:
        client.act(Q)
        client.instruct([1], "open the door")
        for _ in range(2):
            with pytest.raises(PolicyError, match="Commanded takes one at its beginning only"):
                client.act(Q)
        client.reset([1], "open the door")
        assert client.act(Q).valid.all()
    assert held.resets[-1] == ([1], ["open the door"])
