"""Stacked observations: what a policy sees of the past, compared with a list of all that was observed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from fakes import FakeConnection
from helpers import make_agreement
from sample_policies import Remembering

import shmbridge
from shmbridge.arrays import NumpyArrays
from shmbridge.client import Client
from shmbridge.errors import LocalProtocolError, PolicyRaisedError, SpecError, TimedOutError
from shmbridge.messages import Failure
from shmbridge.spec import TensorSpec
from shmbridge.stacking import FrameStack

NUM_ENVS = 3
Q = TensorSpec("q", (3,), "float32")
NUMBER = TensorSpec("number", (), "int64")
Seen = list[list[float]]


class Past:
    """Everything that each environment has observed in its episode."""

    def __init__(self, steps: int, num_envs: int = NUM_ENVS) -> None:
        self._steps = steps
        self._seen: Seen = [[] for _ in range(num_envs)]

    def begin(self, env_ids: Sequence[int]) -> None:
        for env_id in env_ids:
            self._seen[env_id] = []

    def stacked(self, numbers: Sequence[float]) -> Seen:
        """Return what is to be seen with ``numbers`` as the newest, oldest first."""
        stacks = [[*seen, number] for seen, number in zip(self._seen, numbers, strict=True)]
        return [[stack[max(0, len(stack) - 1 - back)] for back in reversed(range(self._steps))] for stack in stacks]

    def remember(self, numbers: Sequence[float]) -> None:
        for seen, number in zip(self._seen, numbers, strict=True):
            seen.append(number)


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_a_stack_holds_the_newest_and_those_before_it_oldest_first(steps: int) -> None:
    rng = np.random.default_rng(steps)
    stack, past = FrameStack([Q, NUMBER], NUM_ENVS, steps), Past(steps)
    arrays = {spec.name: np.zeros((NUM_ENVS, steps, *spec.shape), spec.storage) for spec in (Q, NUMBER)}
    for number in range(200):
        numbers = [number * 10 + env_id for env_id in range(NUM_ENVS)]
        if rng.random() < 0.3:
            env_ids = np.flatnonzero(rng.random(NUM_ENVS) < 0.5).tolist()
            stack.begin(env_ids)
            past.begin(env_ids)
        for array in arrays.values():
            array[...] = -7  # what was there before
            array[:, -1] = np.array(numbers).reshape(NUM_ENVS, *(1,) * (array.ndim - 2))
        if rng.random() < 0.3:
            stack.pass_over({name: array[:, -1].copy() for name, array in arrays.items()}, _copy)
        else:
            for _ in range(rng.integers(1, 3)):  # given again, nothing changes
                stack.complete(arrays)
                assert arrays["number"].tolist() == past.stacked(numbers)
                assert arrays["q"][..., 1].tolist() == past.stacked(numbers)
            if rng.random() < 0.2:
                continue  # its step does not end: it timed out
            stack.remember()
            stack.remember()
        past.remember(numbers)


def _copy(value: np.ndarray, out: np.ndarray) -> None:
    out[...] = value


def make_client(steps: int = 3, *, num_envs: int | None = NUM_ENVS, automatic: bool = True, **options: Any) -> tuple[Client, FakeConnection]:
    connection = FakeConnection(make_agreement(num_envs or 1, observation_steps=steps), automatic=automatic)
    client = Client(connection, offered=["q", "unused"], batched=num_envs is not None, timeout=0.05, arrays=NumpyArrays(), **options)
    return client, connection


def q(*numbers: float) -> dict[str, Any]:
    """Return an observation with one number per environment."""
    return {"q": np.array([[number] * 3 for number in numbers], np.float32)}


def stacks(connection: FakeConnection) -> list[Seen]:
    """Return what was published, a list of numbers per environment."""
    for seen in connection.observations:
        assert np.all(seen["tensors"]["q"] == seen["tensors"]["q"][..., :1])
    return [seen["tensors"]["q"][..., 0].tolist() for seen in connection.observations]


def test_the_first_observation_of_an_episode_stands_for_those_it_does_not_have() -> None:
    client, connection = make_client()
    for number in (1, 2, 3, 4):
        client.infer(q(number, 10 * number, 100 * number))
    assert [seen[0] for seen in stacks(connection)] == [[1, 1, 1], [1, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert stacks(connection)[-1] == [[2, 3, 4], [20, 30, 40], [200, 300, 400]]


def test_each_environment_begins_its_episodes_by_itself() -> None:
    client, connection = make_client()
    client.infer(q(1, 1, 1))
    client.infer(q(2, 2, 2))
    client.reset([1])
    client.infer(q(3, 3, 3))
    client.reset()
    client.infer(q(4, 4, 4))
    assert stacks(connection)[2:] == [[[1, 2, 3], [3, 3, 3], [1, 2, 3]], [[4, 4, 4]] * 3]


def test_an_instruction_leaves_the_past_as_it_is() -> None:
    client, connection = make_client()
    client.infer(q(1, 1, 1))
    client.instruct([1], "go on")
    client.infer(q(2, 2, 2))
    assert stacks(connection)[1] == [[1, 1, 2]] * 3


def test_what_was_not_sent_because_chunks_lasted_is_part_of_the_past() -> None:
    client, connection = make_client()
    for number in range(9):
        client.act(q(number, number, number))
    assert [seen[0] for seen in stacks(connection)] == [[0, 0, 0], [2, 3, 4], [6, 7, 8]]


def test_what_was_not_sent_for_one_environment_was_sent_for_another_and_both_remember_it() -> None:
    client, connection = make_client()
    client.act(q(0, 0, 0))
    client.reset([1])
    for number in range(1, 5):
        client.act(q(number, number, number))
    assert [seen["rows"] for seen in connection.observations] == [[0, 1, 2], [1], [0, 2]]
    assert stacks(connection)[1][1] == [1, 1, 1]
    assert [stacks(connection)[2][env_id] for env_id in (0, 1, 2)] == [[2, 3, 4]] * 3


def test_what_latest_only_dropped_is_part_of_the_past() -> None:
    client, connection = make_client(automatic=False, latest_only=True)
    assert client.submit(q(1, 1, 1)) == 0
    assert [client.submit(q(number, number, number)) for number in (2, 3)] == [None, None]
    client.reset([2])
    assert client.submit(q(4, 4, 4)) is None
    connection.answer()
    assert client.submit(q(5, 5, 5)) == 4
    assert stacks(connection) == [[[1, 1, 1]] * 3, [[3, 4, 5], [3, 4, 5], [4, 4, 5]]]


def test_dropping_one_needs_no_slot() -> None:
    client, connection = make_client(automatic=False, latest_only=True)
    client.submit(q(1, 1, 1))
    connection.lent = 0
    assert client.submit(q(2, 2, 2)) is None


@pytest.mark.parametrize("way", ["no slot", "no answer", "policy raised", "wrong dtype", "NaN"])
def test_an_observation_given_again_after_an_error_has_the_same_past(way: str) -> None:
    client, connection = make_client(automatic=False)
    connection.before_take = connection.answer
    for number in (1, 2):
        client.infer(q(number, number, number))
    wrong = {"wrong dtype": {"q": np.zeros((NUM_ENVS, 3))}, "NaN": q(np.nan, 0, 0)}.get(way, q(3, 3, 3))
    connection.lent = 0 if way == "no slot" else 100
    connection.before_take = lambda: connection.answer(failure=Failure("PolicyRaisedError", "no")) if way == "policy raised" else None
    for _ in range(3):
        with pytest.raises((TimedOutError, SpecError, PolicyRaisedError)):
            client.infer(wrong, timeout=0.0)
        while connection.unanswered:
            connection.answer()
    connection.lent, connection.automatic, connection.before_take = 100, True, lambda: None
    client.infer(q(3, 3, 3))
    client.infer(q(4, 4, 4))
    assert stacks(connection)[-2:] == [[[1, 2, 3]] * 3, [[2, 3, 4]] * 3]


def test_an_episode_that_began_with_an_error_still_has_no_past() -> None:
    client, connection = make_client(automatic=False)
    connection.before_take = connection.answer
    client.infer(q(1, 1, 1))
    client.reset([1])
    connection.before_take = lambda: None
    with pytest.raises(TimedOutError):
        client.infer(q(2, 2, 2), timeout=0.0)
    connection.answer()
    connection.automatic = True
    client.infer(q(2, 2, 2))
    assert stacks(connection)[-1] == [[1, 1, 2], [2, 2, 2], [1, 1, 2]]


def test_a_wrong_observation_is_refused_also_where_it_would_not_be_sent() -> None:
    """Without a stack only its names are looked at then; here it would come to light when it is too late."""
    client, connection = make_client()
    client.act(q(0, 0, 0))
    for wrong in ({"q": np.zeros((NUM_ENVS, 3))}, q(np.nan, 0, 0), {}):
        with pytest.raises(SpecError):
            client.act(wrong)
    slot = client.loan()
    slot["q"][...] = np.nan
    with pytest.raises(SpecError, match="NaN"):
        client.act(slot)
    slot["q"][...] = 1
    for number in (1, 2, 3, 4):
        client.act(slot if number == 1 else q(number, number, number))
    assert stacks(connection)[-1] == [[2, 3, 4]] * 3


def test_a_loaned_slot_shows_the_newest_only_and_is_sent_with_its_past() -> None:
    client, connection = make_client()
    for number in range(1, 10):
        slot = client.loan()
        assert slot["q"].shape == (NUM_ENVS, 3)
        slot["q"][...] = number
        client.infer(slot) if number % 2 else client.infer(q(number, number, number))
    assert stacks(connection)[-1] == [[7, 8, 9]] * 3


def test_a_loaned_slot_that_is_not_sent_is_part_of_the_past() -> None:
    client, connection = make_client()
    for number in range(9):
        slot = client.loan()
        slot["q"][...] = number
        client.act(slot)
    assert [seen[0] for seen in stacks(connection)] == [[0, 0, 0], [2, 3, 4], [6, 7, 8]]


def test_without_a_batch_axis_there_is_one_past_and_no_axis_for_it() -> None:
    client, connection = make_client(num_envs=None)
    for number in range(9):
        value = np.full(3, number, np.float32)
        if number % 2:
            slot = client.loan()
            assert slot["q"].shape == (3,)
            slot["q"][...] = value
            client.act(slot)
        else:
            assert client.act({"q": value})["action"].shape == (3,)
    assert [seen[0] for seen in stacks(connection)] == [[0, 0, 0], [2, 3, 4], [6, 7, 8]]


@pytest.mark.parametrize("latest_only", [False, True])
@pytest.mark.parametrize("steps", [2, 4])
def test_random_use_always_shows_the_right_past(steps: int, latest_only: bool) -> None:
    rng = np.random.default_rng(steps)
    client, connection = make_client(steps, automatic=False, latest_only=latest_only)
    past, published = Past(steps), 0
    answer_all: Any = lambda: [connection.answer() for _ in range(len(connection.unanswered))]  # noqa: E731  # a hook, not a function to name
    for number in range(400):
        numbers = [number * 10.0 + env_id for env_id in range(NUM_ENVS)]
        if rng.random() < 0.2:
            env_ids = np.flatnonzero(rng.random(NUM_ENVS) < 0.5).tolist()
            client.reset(env_ids)
            past.begin(env_ids)
        connection.before_take = answer_all if rng.random() < 0.7 else lambda: None
        try:
            _take_a_step(client, numbers, rng)
        except (TimedOutError, LocalProtocolError):
            answer_all()
        else:
            if len(connection.observations) > published:
                assert stacks(connection)[-1] == past.stacked(numbers)
            past.remember(numbers)
        published = len(connection.observations)


def _take_a_step(client: Client, numbers: Sequence[float], rng: np.random.Generator) -> None:
    """Give an observation in one of all ways; an error means that the step is not over."""
    observation: Mapping[str, Any] = q(*numbers)
    if rng.random() < 0.5:
        observation = client.loan()
        observation["q"][...] = np.array(numbers)[:, None]
    kind = rng.integers(3)
    if kind == 0:
        client.act(observation, timeout=0.0)
    elif kind == 1:
        client.infer(observation, timeout=0.0)
    else:
        client.submit(observation, timeout=0.0)
        client.poll(timeout=0.0)


IMAGE = TensorSpec("camera/rgb", (2, 2, 3), "uint8")
WORD = TensorSpec("word", (), "utf8[8]")


@pytest.mark.parametrize("num_envs", [None, 2])
@pytest.mark.parametrize("remote", [False, True], ids=["local", "shm"])
def test_a_policy_sees_the_same_past_here_and_in_a_host(unique_name: str, num_envs: int | None, remote: bool) -> None:
    policy = Remembering()
    with contextlib.ExitStack() as ends:
        host = str(ends.enter_context(shmbridge.serve(policy, f"shm://{unique_name}")).address) if remote else policy
        client = ends.enter_context(shmbridge.connect(host, observation_specs=[NUMBER, IMAGE, WORD], num_envs=num_envs, start_timeout=20.0))
        _play_and_compare(client, policy, num_envs)


def _play_and_compare(client: Client, policy: Remembering, num_envs: int | None) -> None:
    rows = num_envs or 1
    past = Past(3, rows)
    policy.seen.clear()
    for number in range(1, 8):
        if number == 5:
            client.reset([0])
            past.begin([0])
        client.infer(_observation(number, num_envs))
        (seen,) = policy.seen
        policy.seen.clear()
        expected = np.array(past.stacked([number] * rows))
        assert seen["number"].tolist() == expected.tolist()
        assert seen["camera/rgb"].shape == (rows, 3, 2, 2, 3)
        assert np.all(seen["camera/rgb"] == expected[..., None, None, None])
        assert seen["word"].tolist() == [[f"w{value}".encode() for value in stack] for stack in expected]
        past.remember([number] * rows)


def _observation(number: int, num_envs: int | None) -> dict[str, Any]:
    if num_envs is None:
        return {"number": number, "camera": {"rgb": np.full((2, 2, 3), number, np.uint8)}, "word": f"w{number}"}
    return {"number": np.full(num_envs, number), "camera": {"rgb": np.full((num_envs, 2, 2, 3), number, np.uint8)}, "word": [f"w{number}"] * num_envs}
