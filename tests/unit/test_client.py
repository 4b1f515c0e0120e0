"""The simulator's side, over a connection that the test plays."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from fakes import FakeConnection
from helpers import make_agreement
from sample_policies import Affine

from shmbridge.arrays import NumpyArrays
from shmbridge.chunking import ChunkRules, Refill
from shmbridge.client import Client
from shmbridge.connecting import connect
from shmbridge.counters import ClientStatistics
from shmbridge.errors import (
    ClosedError,
    LocalProtocolError,
    PeerLostError,
    PolicyError,
    PolicyRaisedError,
    RemoteProtocolError,
    ShmbridgeError,
    SpecError,
    TimedOutError,
)
from shmbridge.messages import Failure
from shmbridge.testing import MarkingPolicy

NUM_ENVS, HORIZON = 3, 4


def make_client(
    *,
    automatic: bool = True,
    num_envs: int | None = NUM_ENVS,
    slots: int = 2,
    horizon: int = HORIZON,
    observation_steps: int = 1,
    latest_only: bool = False,
    **rules: Any,
) -> tuple[Client, FakeConnection]:
    agreement = make_agreement(num_envs or 1, horizon=horizon, slots=slots, observation_steps=observation_steps)
    connection = FakeConnection(agreement, automatic=automatic)
    client = Client(
        connection,
        offered=["q", "unused"],
        batched=num_envs is not None,
        timeout=0.05,
        arrays=NumpyArrays(),
        rules=ChunkRules(**rules),
        latest_only=latest_only,
    )
    return client, connection


def q(*numbers: float) -> dict[str, Any]:
    """Return an observation with one number per environment."""
    return {"q": np.array([[number] * 3 for number in numbers], np.float32)}


def first(reply: Any) -> list[float]:
    """Return the first number of each environment's action."""
    return [float(number) for number in reply["action"].reshape(NUM_ENVS, -1)[:, 0]]


def test_inferring_returns_whole_chunks_of_this_observation() -> None:
    client, _ = make_client()
    for step in range(3):
        reply = client.infer(q(step, 10, 20))
        assert reply["action"].shape == (NUM_ENVS, HORIZON, 3)
        assert reply["action"][:, :, 0].tolist() == [[base + h for h in range(HORIZON)] for base in (step, 10, 20)]
        assert reply.step.tolist() == [step] * 3
        assert reply.age.tolist() == [0] * 3
        assert reply.valid.tolist() == [True] * 3
        assert reply.info == {"sequence": step + 1, "policy": "sample"}
        assert reply.timing is not None and reply.timing.total > 0


def test_acting_plays_a_chunk_to_its_end_before_asking_again() -> None:
    client, connection = make_client()
    for step in range(2 * HORIZON):
        reply = client.act(q(step, step, step))
        assert reply["action"].shape == (NUM_ENVS, 3)
        asked = step - step % HORIZON
        assert first(reply) == [step] * 3
        assert reply.step.tolist() == [asked] * 3
        assert reply.age.tolist() == [step % HORIZON] * 3
        assert (reply.timing is None) == (step % HORIZON != 0)
    assert connection.published == [1, 2]


def test_only_environments_whose_chunk_is_used_up_are_asked_for() -> None:
    client, connection = make_client()
    client.act(q(0, 0, 0))
    client.reset([1], "again")
    reply = client.act(q(50, 60, 70))
    assert connection.observations[1]["rows"] == [1]
    assert connection.observations[1]["resets"] == {1: "again"}
    assert first(reply) == [1, 60, 1]
    assert reply.step.tolist() == [0, 1, 0]
    assert reply.age.tolist() == [1, 0, 1]
    assert reply.valid.tolist() == [True] * 3


def test_the_first_observation_begins_every_episode() -> None:
    client, connection = make_client()
    client.infer(q(0, 0, 0))
    client.infer(q(0, 0, 0))
    assert connection.observations[0]["resets"] == {0: "", 1: "", 2: ""}
    assert connection.observations[1]["resets"] == {}


def test_resets_merge_until_an_observation_is_published() -> None:
    client, connection = make_client()
    client.infer(q(0, 0, 0))
    client.reset([0, 1], ["a", "b"])
    client.reset([1], "c")
    client.reset([2])
    client.infer(q(0, 0, 0))
    assert connection.observations[1]["resets"] == {0: "a", 1: "c", 2: ""}


def test_a_reset_of_all_gives_one_task_to_all() -> None:
    client, connection = make_client()
    client.reset(task="open the microwave")
    client.infer(q(0, 0, 0))
    assert connection.observations[0]["resets"] == dict.fromkeys(range(3), "open the microwave")


def test_each_reset_begins_an_episode_of_its_own_number() -> None:
    client, connection = make_client()
    client.infer(q(0, 0, 0))
    client.reset([2])
    client.reset([2])
    client.infer(q(0, 0, 0))
    before, after = (seen["episodes"] for seen in connection.observations)
    assert after == [before[0], before[1], before[2] + 2]


@pytest.mark.parametrize(
    ("env_ids", "task", "text"),
    [
        ([3], None, "there is no environment 3: they are numbered 0 to 2"),
        ([-1], None, "there is no environment -1"),
        ([0, 1], ["a"], "1 tasks for 2 environments"),
        (None, ["a", "b"], "2 tasks for 3 environments"),
        ([0], "x" * 257, "at most 256 bytes"),
        ([0], "é" * 129, "at most 256 bytes"),
        ([0], "a\0b", "no NUL"),
    ],
)
def test_an_impossible_reset_is_refused_and_changes_nothing(env_ids: Any, task: Any, text: str) -> None:
    client, connection = make_client()
    client.act(q(0, 0, 0))
    with pytest.raises(SpecError, match=text):
        client.reset(env_ids, task)
    client.act(q(1, 1, 1))
    assert connection.published == [1]


def test_a_failed_publication_keeps_the_resets() -> None:
    client, connection = make_client()
    client.reset([1], "kept")
    with pytest.raises(SpecError):
        client.infer({"q": np.zeros(3)})
    connection.lent = 0
    with pytest.raises(TimedOutError):
        client.infer(q(0, 0, 0))
    connection.lent = 100
    client.infer(q(0, 0, 0))
    assert connection.observations[0]["resets"] == {0: "", 1: "kept", 2: ""}


def test_a_row_made_in_an_episode_that_has_ended_is_not_valid() -> None:
    client, _ = make_client()
    client.submit(q(0, 0, 0))
    client.reset([1])
    reply = client.poll()
    assert reply is not None
    assert reply.valid.tolist() == [True, False, True]


def test_a_row_that_was_not_answered_is_not_valid_nor_one_that_nobody_asked_for() -> None:
    client, connection = make_client(automatic=False)
    client.submit(q(0, 0, 0))
    connection.answer(rows=[0, 2])
    reply = client.poll()
    assert reply is not None and reply.valid.tolist() == [True, False, True]
    connection.before_take = connection.answer
    client.act(q(1, 1, 1))
    client.reset([1])
    connection.before_take = lambda: connection.answer(rows=[0, 1, 2])
    assert first(client.act(q(50, 60, 70))) == [2, 60, 2], "what was not asked for must not replace what is being played"


def test_a_row_is_valid_again_in_the_first_answer_of_its_new_episode() -> None:
    client, _ = make_client(slots=3)
    client.submit(q(0, 0, 0))
    client.reset([1])
    client.submit(q(1, 1, 1))
    client.reset([])
    replies = [client.poll(), client.poll()]
    assert [reply.valid.tolist() for reply in replies if reply] == [[True, False, True], [True, True, True]]


def test_an_instruction_travels_with_the_next_observation_and_ends_the_chunks_of_its_environments() -> None:
    client, connection = make_client()
    client.act(q(0, 0, 0))
    client.instruct([1], "push")
    reply = client.act(q(50, 60, 70))
    seen = connection.observations[1]
    assert (seen["resets"], seen["instructions"], seen["rows"]) == ({}, {1: "push"}, [1])
    assert seen["episodes"] == connection.observations[0]["episodes"]
    assert first(reply) == [1, 60, 1]
    assert client.act(q(0, 0, 0)).valid.tolist() == [True] * 3
    assert len(connection.observations) == 2


def test_an_instruction_for_all_is_one_text_or_one_each() -> None:
    client, connection = make_client()
    client.act(q(0, 0, 0))
    client.instruct(task="push")
    client.act(q(0, 0, 0))
    client.instruct(task=["a", "b", "c"])
    client.act(q(0, 0, 0))
    assert connection.observations[1]["instructions"] == dict.fromkeys(range(3), "push")
    assert connection.observations[2]["instructions"] == {0: "a", 1: "b", 2: "c"}


def test_instructions_and_resets_merge_until_an_observation_is_published() -> None:
    client, connection = make_client()
    client.instruct([0], "before the first episode has begun")
    client.infer(q(0, 0, 0))
    client.instruct([0, 1], ["a", "b"])
    client.reset([1])
    client.instruct([2], "c")
    client.reset([2], "d")
    client.instruct([2], "e")
    client.infer(q(0, 0, 0))
    client.infer(q(0, 0, 0))
    one, two, three = connection.observations
    assert (one["resets"], one["instructions"]) == ({0: "before the first episode has begun", 1: "", 2: ""}, {})
    assert (two["resets"], two["instructions"]) == ({1: "", 2: "e"}, {0: "a"})
    assert (three["resets"], three["instructions"], three["header"].has_changes) == ({}, {}, 0)


def test_an_answer_under_way_when_the_instruction_came_is_still_of_this_episode() -> None:
    client, _ = make_client()
    client.submit(q(0, 0, 0))
    client.instruct([1], "push")
    reply = client.poll()
    assert reply is not None and reply.valid.tolist() == [True] * 3


@pytest.mark.parametrize(("env_ids", "task"), [([3], "a"), ([0, 1], ["a"]), ([0], "x" * 257), ([0], "a\0b"), ([True, False, False], "a")])
def test_an_impossible_instruction_is_refused_and_changes_nothing(env_ids: Any, task: Any) -> None:
    client, connection = make_client()
    client.act(q(0, 0, 0))
    with pytest.raises(SpecError):
        client.instruct(env_ids, task)
    client.act(q(1, 1, 1))
    assert connection.published == [1]


def test_a_failed_publication_keeps_the_instructions() -> None:
    client, connection = make_client()
    client.infer(q(0, 0, 0))
    client.instruct([1], "kept")
    with pytest.raises(SpecError):
        client.infer({"q": np.zeros(3)})
    connection.lent = 0
    with pytest.raises(TimedOutError):
        client.infer(q(0, 0, 0))
    connection.lent = 100
    client.infer(q(0, 0, 0))
    assert connection.observations[1]["instructions"] == {1: "kept"}


def test_a_refused_instruction_is_the_policys_error_and_the_session_goes_on() -> None:
    with connect(Affine(), example=q(0, 0), num_envs=2) as client:
        client.act(q(0, 0))
        client.instruct([1], "push")
        for _ in range(3):
            with pytest.raises(PolicyError, match="Affine takes one at its beginning only"):
                client.act(q(1, 1))
        client.reset([1], "push")
        assert client.act(q(5, 5))["action"][:, 0].tolist() == [1, 5]


@pytest.mark.parametrize(("refill", "rows"), [(Refill.EMPTY, [1]), (Refill.ALL, [0, 1, 2])])
def test_who_is_asked_when_a_chunk_is_used_up_is_a_matter_of_choice(refill: Refill, rows: list[int]) -> None:
    client, connection = make_client(refill=refill)
    client.act(q(0, 0, 0))
    client.reset([1])
    reply = client.act(q(50, 60, 70))
    assert connection.observations[1]["rows"] == rows
    assert first(reply) == [50 if 0 in rows else 1, 60, 70 if 2 in rows else 1]


def test_replanning_asks_before_the_chunk_ends() -> None:
    client, connection = make_client(replan_steps=2)
    found = [first(client.act(q(*[10 * step] * 3)))[0] for step in range(6)]
    assert found == [0, 1, 20, 21, 40, 41]
    assert len(connection.published) == 3


def test_with_latency_actions_are_old_from_the_second_chunk_on_and_say_so() -> None:
    client, connection = make_client(latency_steps=2)
    replies = [client.act(q(*[10 * step] * 3)) for step in range(8)]
    assert [first(reply)[0] for reply in replies] == [0, 1, 2, 3, 22, 23, 42, 43]
    assert [int(reply.step[0]) for reply in replies] == [0, 0, 0, 0, 2, 2, 4, 4]
    assert [int(reply.age[0]) for reply in replies] == [0, 1, 2, 3, 2, 3, 2, 3]
    assert [seen["header"].sequence for seen in connection.observations] == [1, 2, 3, 4]
    client.reset([1])
    assert first(client.act(q(800, 800, 800))) == [62, 800, 62]


def test_ten_drifted_environments_cost_only_their_own_rows() -> None:
    policy = MarkingPolicy(horizon=10)
    observation = {"mark": np.zeros(10)}
    for refill, expected in (("empty", 10 + 9 + 40), ("all", 10 * 10 + 10 * 4)):
        with connect(policy, example=observation, num_envs=10, refill=refill) as client:
            for step in range(50):
                if 0 < step < 10:
                    client.reset([step])
                client.act(observation)
            assert client.statistics().rows == expected, refill


class Awaiting:
    """A client that sends the latest only, and a host that answers when told."""

    def __init__(self, *, slots: int = 2) -> None:
        self.client, self.connection = make_client(automatic=False, slots=slots, latest_only=True)

    def submit(self, number: float) -> int | None:
        return self.client.submit(q(number, number, number))

    def poll(self) -> float | None:
        reply = self.client.poll()
        return None if reply is None else first(reply)[0]


def test_with_latest_only_nothing_is_sent_while_the_host_is_busy() -> None:
    awaiting = Awaiting()
    assert [awaiting.submit(number) for number in (1, 2, 3)] == [0, None, None]
    assert awaiting.poll() is None
    awaiting.connection.answer()
    assert awaiting.submit(4) == 3
    assert awaiting.submit(5) is None
    assert awaiting.poll() == 1
    assert awaiting.connection.published == [1, 2]
    statistics = awaiting.client.statistics()
    assert (statistics.steps, statistics.requests, statistics.rows, statistics.dropped, statistics.discarded) == (5, 2, 6, 3, 0)


def test_with_latest_only_the_newest_answer_is_polled_and_says_how_old_it_is() -> None:
    awaiting = Awaiting(slots=3)
    for number in (1, 2, 3):
        awaiting.submit(number)
        awaiting.connection.answer()
    awaiting.submit(4)
    reply = awaiting.client.poll()
    assert reply is not None
    assert (first(reply)[0], reply.step.tolist(), reply.age.tolist()) == (3, [2] * 3, [1] * 3)
    assert awaiting.client.statistics().discarded == 2
    assert awaiting.poll() is None
    awaiting.connection.answer()
    assert awaiting.poll() == 4


def test_with_latest_only_answers_that_nobody_polls_give_way() -> None:
    awaiting = Awaiting()
    for number in range(20):
        assert awaiting.submit(number) == number
        awaiting.connection.answer()
    assert awaiting.poll() == 19
    assert awaiting.client.statistics().discarded == 19


def test_a_loop_of_submitting_and_polling_never_starves_however_slow_the_host() -> None:
    """Each time the host has answered, the next observation goes out, and each answer is seen."""
    for pace in range(1, 6):
        awaiting, seen = Awaiting(), []
        for number in range(60):
            awaiting.submit(number)
            if number % pace == pace - 1 and awaiting.connection.unanswered:
                awaiting.connection.answer()
            seen.append(awaiting.poll())
        found = [number for number in seen if number is not None]
        assert len(found) >= 60 // pace - 1, pace
        assert found == sorted(set(found))


def test_with_latest_only_there_are_never_more_under_way_than_the_host_can_answer() -> None:
    rng = np.random.default_rng(0)
    awaiting = Awaiting()
    for number in range(300):
        awaiting.submit(number)
        assert len(awaiting.connection.unanswered) <= 1
        assert len(awaiting.connection.unanswered) + len(awaiting.connection.ready) <= 2
        if awaiting.connection.unanswered and rng.random() < 0.4:
            awaiting.connection.answer()
        if rng.random() < 0.3:
            awaiting.poll()


def test_resets_and_instructions_wait_for_the_next_observation_that_is_sent() -> None:
    awaiting = Awaiting()
    awaiting.submit(1)
    awaiting.client.reset([0], "kept")
    awaiting.client.instruct([1], "too")
    assert awaiting.submit(2) is None
    awaiting.client.reset([2])
    assert awaiting.submit(3) is None
    awaiting.connection.answer()
    assert awaiting.submit(4) == 3
    seen = awaiting.connection.observations[-1]
    assert (seen["resets"], seen["instructions"]) == ({0: "kept", 2: ""}, {1: "too"})
    reply = awaiting.client.poll()
    assert reply is not None and reply.valid.tolist() == [False, True, False]


def test_a_loaned_slot_is_spent_also_where_its_observation_is_dropped() -> None:
    awaiting = Awaiting()
    awaiting.submit(1)
    slot = awaiting.client.loan()
    assert awaiting.client.submit(slot) is None
    with pytest.raises(LocalProtocolError, match="spent"):
        awaiting.client.submit(slot)
    awaiting.connection.answer()
    again = awaiting.client.loan()
    again["q"][...] = 7
    assert awaiting.client.submit(again) == 2
    awaiting.connection.answer()
    assert awaiting.poll() == 7


def test_names_are_checked_also_where_an_observation_is_dropped() -> None:
    awaiting = Awaiting()
    awaiting.submit(1)
    with pytest.raises(SpecError, match="typo"):
        awaiting.client.submit({"typo": 1})
    assert awaiting.client.statistics().dropped == 0


def test_with_latest_only_polling_before_or_after_everything_gives_nothing() -> None:
    awaiting = Awaiting()
    assert awaiting.poll() is None
    with pytest.raises(TimedOutError):
        awaiting.client.infer(q(1, 1, 1), timeout=0.0)
    assert awaiting.submit(2) is None, "the host still has the one that was given up"
    assert awaiting.poll() is None
    awaiting.connection.answer()
    assert awaiting.submit(3) == 1
    awaiting.connection.answer()
    assert awaiting.poll() == 3


def test_a_policys_failure_is_polled_too_and_the_next_answer_is_right() -> None:
    awaiting = Awaiting()
    awaiting.submit(1)
    awaiting.connection.answer(failure=Failure("PolicyRaisedError", "told to raise"))
    with pytest.raises(PolicyRaisedError):
        awaiting.client.poll()
    assert awaiting.submit(2) == 1
    awaiting.connection.answer()
    assert awaiting.poll() == 2


def test_in_this_process_every_observation_is_the_latest() -> None:
    with connect(MarkingPolicy(), example={"mark": np.zeros(1)}, num_envs=1, latest_only=True) as client:
        assert [client.submit({"mark": np.full(1, float(number))}) for number in range(6)] == list(range(6))
        reply = client.poll()
        assert reply is not None and reply["action"][0, 0, 0] == 5
        assert (client.statistics().dropped, client.statistics().discarded) == (0, 5)


def test_what_a_client_counts_tells_what_it_did() -> None:
    client, connection = make_client()
    assert client.statistics() == ClientStatistics(0, 0, 0, 0, 0, *(connection.statistics() or ()))
    for step in range(HORIZON + 1):
        client.act(q(step, step, step))
    client.reset([1])
    client.act(q(0, 0, 0))
    client.submit(q(0, 0, 0))
    client.infer(q(0, 0, 0))
    statistics = client.statistics()
    assert (statistics.steps, statistics.requests, statistics.rows) == (HORIZON + 4, 5, 3 + 3 + 1 + 3 + 3)
    assert (statistics.dropped, statistics.discarded) == (0, 1)
    assert statistics.observation_ring is not None and statistics.observation_ring.moved == 5


def test_a_step_that_failed_is_not_counted_but_its_request_is() -> None:
    client, connection = make_client(automatic=False)
    for _ in range(2):
        with pytest.raises(TimedOutError):
            client.infer(q(0, 0, 0), timeout=0.0)
        connection.answer()
    with pytest.raises(SpecError):
        client.infer({})
    statistics = client.statistics()
    assert (statistics.steps, statistics.requests, statistics.discarded) == (0, 2, 1)


def test_statistics_do_not_wait_for_a_call_that_is_under_way() -> None:
    client, connection = make_client()
    with connection.in_use:
        assert client.statistics().requests == 0


def test_a_second_ctrl_c_on_the_way_out_of_an_interrupted_call_leaves_the_session_dead() -> None:
    client, _ = make_client()
    client._safe_points.__enter__()  # and never __exit__: that was interrupted before it began
    with pytest.raises(ClosedError, match="interrupted"):
        client.act(client.loan())
    with pytest.raises(ClosedError, match="interrupted"):
        client.reset()


def test_a_call_on_an_ended_session_raises_even_if_the_lock_was_lost_with_an_interrupted_close() -> None:
    client, connection = make_client()
    client.close()
    connection.in_use.acquire()
    with pytest.raises(ClosedError):
        client.loan()
    with pytest.raises(ClosedError):
        client.reset()


def test_what_was_submitted_is_not_given_up_for_an_observation_that_is_refused() -> None:
    client, _ = make_client()
    client.submit(q(1, 1, 1))
    for wrong in ({"q": np.zeros(3)}, {}, q(np.nan, 0, 0)):
        with pytest.raises(SpecError):
            client.infer(wrong)
    assert first(client.poll()) == [1, 1, 1]


def test_no_answer_in_time_names_host_state_time_and_number_and_the_session_goes_on() -> None:
    client, connection = make_client(automatic=False)
    with pytest.raises(TimedOutError, match=r"for the action for observation 1; host 'fake' is BUSY for 2\.5 s observation 3\. The session is still good"):
        client.infer(q(1, 1, 1), timeout=0.01)
    connection.answer()
    connection.automatic = True
    assert first(client.infer(q(2, 2, 2))) == [2, 2, 2]


def test_a_late_answer_is_never_taken_for_a_current_one() -> None:
    client, connection = make_client(automatic=False)
    for number in range(1, 30):
        with pytest.raises(TimedOutError):
            client.infer(q(number, number, number), timeout=0.0)
        if number % 3:
            while connection.unanswered:
                connection.answer()
        connection.before_take = lambda: [connection.answer() for _ in range(len(connection.unanswered))] and None
        assert first(client.infer(q(100 + number, 0, 0)))[0] == 100 + number
        connection.before_take = lambda: None


def test_a_request_that_timed_out_is_not_sent_twice_nor_counted_as_a_step() -> None:
    client, connection = make_client(automatic=False)
    with pytest.raises(TimedOutError):
        client.act(q(1, 1, 1), timeout=0.0)
    connection.answer()
    connection.automatic = True
    reply = client.act(q(2, 2, 2))
    assert connection.published == [1, 2]
    assert first(reply) == [2, 2, 2]
    assert (reply.step.tolist(), reply.age.tolist()) == ([0] * 3, [0] * 3)


def test_without_a_free_slot_nothing_is_sent() -> None:
    client, connection = make_client()
    connection.lent = 0
    with pytest.raises(TimedOutError, match="a free observation slot"):
        client.infer(q(0, 0, 0))
    with pytest.raises(TimedOutError, match="a free observation slot"):
        client.loan()
    assert connection.published == []


def test_a_policys_failure_is_raised_and_the_session_goes_on() -> None:
    client, connection = make_client(automatic=False)
    connection.before_take = lambda: connection.answer(failure=Failure("PolicyRaisedError", "told to raise", "ValueError", "Traceback …"))
    with pytest.raises(PolicyRaisedError, match="told to raise"):
        client.act(q(0, 0, 0))
    connection.before_take = connection.answer
    assert first(client.act(q(5, 5, 5))) == [5, 5, 5]


def test_a_loaned_slot_is_sent_as_it_is_and_then_spent() -> None:
    client, connection = make_client()
    slot = client.loan()
    assert client.loan() is slot
    slot["q"][...] = 8
    assert first(client.infer(slot)) == [8, 8, 8]
    with pytest.raises(LocalProtocolError, match="spent"):
        client.infer(slot)
    assert connection.published == [1]


def test_a_loaned_slot_is_spent_also_by_a_step_that_asks_nothing() -> None:
    client, connection = make_client()
    client.act(q(0, 0, 0))
    slot = client.loan()
    client.act(slot)
    assert connection.published == [1]
    with pytest.raises(LocalProtocolError, match="spent"):
        client.act(slot)


def test_submitted_observations_are_answered_in_order() -> None:
    client, _ = make_client(slots=3)
    assert [client.submit(q(number, 0, 0)) for number in (7, 8, 9)] == [0, 1, 2]
    replies = [client.poll() for _ in range(3)]
    assert [first(reply)[0] for reply in replies] == [7, 8, 9]
    assert [reply.step.tolist() for reply in replies if reply] == [[0] * 3, [1] * 3, [2] * 3]
    assert [reply.age.tolist() for reply in replies if reply] == [[2] * 3, [1] * 3, [0] * 3]


def test_more_than_fit_are_not_submitted() -> None:
    client, connection = make_client()
    client.submit(q(1, 1, 1))
    client.submit(q(2, 2, 2))
    with pytest.raises(LocalProtocolError, match="poll before submitting more"):
        client.submit(q(3, 3, 3))
    assert connection.published == [1, 2]


def test_polling_without_a_submission_is_our_callers_fault() -> None:
    client, _ = make_client()
    with pytest.raises(LocalProtocolError, match="nothing was submitted"):
        client.poll()
    client.infer(q(0, 0, 0))
    with pytest.raises(LocalProtocolError):
        client.poll()


def test_polling_too_early_gives_nothing_and_loses_nothing() -> None:
    client, connection = make_client(automatic=False)
    client.submit(q(1, 1, 1))
    assert client.poll() is None
    assert client.poll(timeout=0.0) is None
    connection.answer()
    assert first(client.poll()) == [1, 1, 1]


def test_inferring_gives_up_what_was_submitted_before() -> None:
    client, _ = make_client()
    client.submit(q(1, 1, 1))
    assert first(client.infer(q(2, 2, 2))) == [2, 2, 2]
    with pytest.raises(LocalProtocolError, match="nothing was submitted"):
        client.poll()


def test_without_a_batch_axis_there_is_none_in_or_out() -> None:
    client, connection = make_client(num_envs=None)
    reply = client.infer({"q": np.array([1, 2, 3], np.float32)})
    assert reply["action"].shape == (HORIZON, 3)
    assert (int(reply.step), int(reply.age), bool(reply.valid)) == (0, 0, True)
    reply = client.act({"q": np.array([1, 2, 3], np.float32)})
    assert reply["action"].tolist() == [1, 2, 3]
    slot = client.loan()
    assert slot["q"].shape == (3,)
    slot["q"][...] = 9
    assert client.infer(slot)["action"][0].tolist() == [9, 9, 9]
    assert connection.observations[-1]["tensors"]["q"].shape == (1, 3)


def test_replies_belong_to_the_caller() -> None:
    client, _ = make_client()
    reply = client.act(q(0, 0, 0))
    reply["action"][...] = reply.step[...] = reply.age[...] = -5
    assert first(client.act(q(0, 0, 0))) == [1, 1, 1]


@pytest.mark.parametrize("left_out", [[1], [0, 1, 2]])
def test_a_host_that_leaves_out_rows_that_were_asked_for_is_at_fault(left_out: list[int]) -> None:
    client, connection = make_client(automatic=False)
    connection.before_take = lambda: connection.answer(rows=[row for row in range(NUM_ENVS) if row not in left_out])
    with pytest.raises(RemoteProtocolError, match="left out"):
        client.act(q(0, 0, 0))


def test_a_session_in_which_the_host_broke_the_rules_is_dead() -> None:
    client, connection = make_client(automatic=False)
    connection.before_take = lambda: connection.answer(sequence=99)
    with pytest.raises(RemoteProtocolError):
        client.infer(q(0, 0, 0))
    connection.before_take = connection.answer
    for call in (lambda: client.infer(q(0, 0, 0)), lambda: client.act(q(0, 0, 0)), client.loan, lambda: client.submit(q(0, 0, 0)), client.poll):
        with pytest.raises(ClosedError, match="reconnect"):
            call()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_a_session_that_was_interrupted_in_an_exchange_is_dead(interruption: type[BaseException]) -> None:
    client, connection = make_client(automatic=False)

    def interrupt() -> None:
        raise interruption

    connection.before_take = interrupt
    with pytest.raises(interruption):
        client.infer(q(0, 0, 0))
    connection.before_take = connection.answer
    with pytest.raises(ClosedError, match=f"{interruption.__name__}.*reconnect"):
        client.infer(q(0, 0, 0))
    client.close()


def test_a_session_that_was_interrupted_plays_no_more_actions_out_of_its_queues() -> None:
    client, connection = make_client()
    client.act(q(0, 0, 0))

    def interrupt() -> None:
        raise KeyboardInterrupt

    connection.before_take = interrupt
    with pytest.raises(KeyboardInterrupt):
        client.infer(q(0, 0, 0))
    with pytest.raises(ClosedError, match="reconnect"):
        client.act(q(0, 0, 0))


def test_a_closed_client_gives_no_more_actions_out_of_its_queues() -> None:
    client, _ = make_client()
    client.act(q(0, 0, 0))
    client.close()
    with pytest.raises(ClosedError):
        client.act(q(1, 1, 1))


def test_a_lost_host_is_said_by_every_call_that_needs_it() -> None:
    client, connection = make_client()
    connection.lose()
    for call in (lambda: client.infer(q(0, 0, 0)), lambda: client.act(q(0, 0, 0)), client.loan, lambda: client.submit(q(0, 0, 0)), client.ping):
        with pytest.raises(PeerLostError):
            call()


def test_a_with_block_closes_whatever_happens() -> None:
    client, connection = make_client()
    with pytest.raises(RuntimeError), client:
        raise RuntimeError
    assert connection.closed == 1


def test_stopping_the_host_closes_this_session_too() -> None:
    client, connection = make_client()
    client.stop_host()
    assert connection.stopped
    assert connection.closed == 1


def test_a_ping_brings_what_the_host_is_doing() -> None:
    client, _ = make_client()
    status = client.ping()
    assert status is not None and status.detail == "observation 3"


def test_a_client_says_who_it_is_for_operators() -> None:
    client, _ = make_client()
    assert repr(client) == "<Client of host 'fake' over nowhere: sample, 3 environments, observation 0>"


def test_wrong_observations_are_refused_unsent() -> None:
    client, connection = make_client()
    for wrong in ({}, {"q": np.zeros((3, 3))}, {"q": q(0, 0, 0)["q"], "typo": 1}, {"q": np.full((3, 3), np.nan, np.float32)}):
        with pytest.raises(SpecError):
            client.act(wrong)
    assert connection.published == []
    assert first(client.act(q(1, 1, 1))) == [1, 1, 1]


def test_random_use_never_mixes_up_observations() -> None:
    """Against the plainest model: the action of each environment is its last asked-for observation plus the steps made since."""
    rng = np.random.default_rng(0)
    client, connection = make_client(automatic=False, slots=3)
    queues: list[list[float]] = [[] for _ in range(NUM_ENVS)]
    answer_all = lambda: [connection.answer() for _ in range(len(connection.unanswered))] and None  # noqa: E731  # a hook, not a function to name
    for step in range(1, 300):
        numbers = [step * 1000.0 + env_id * 10 for env_id in range(NUM_ENVS)]
        if rng.random() < 0.3:
            env_ids = [int(env_id) for env_id in np.flatnonzero(rng.random(NUM_ENVS) < 0.5)]
            client.reset(env_ids)
            for env_id in env_ids:
                queues[env_id] = []
        connection.before_take = answer_all if rng.random() < 0.7 else lambda: None
        try:
            found = first(client.act(q(*numbers), timeout=0.0))
        except TimedOutError:
            continue
        for env_id, queue in enumerate(queues):
            if not queue:
                queue.extend(numbers[env_id] + h for h in range(HORIZON))
        assert found == [queue.pop(0) for queue in queues]


def test_close_may_come_from_another_thread() -> None:
    client, connection = make_client(automatic=False)
    errors: list[ShmbridgeError] = []
    entered = threading.Event()

    def block() -> None:
        entered.set()
        while connection.lost is None:
            threading.Event().wait(0.005)
        raise connection.lost

    connection.before_take = block

    def infer() -> None:
        try:
            client.infer(q(0, 0, 0))
        except ShmbridgeError as error:
            errors.append(error)

    thread = threading.Thread(target=infer)
    thread.start()
    entered.wait()
    client.close()
    thread.join()
    assert [type(error) for error in errors] == [ClosedError]


@pytest.mark.parametrize("env_ids", [np.array([False, True]), [True, False], [0.5], 1, [2], [-1]])
def test_what_is_no_list_of_environments_is_refused_and_resets_nobody(env_ids: Any) -> None:
    """A mask would pass as the numbers 0 and 1, and reset the wrong environments."""
    policy = MarkingPolicy()
    with connect(policy, example={"mark": np.zeros(2)}, num_envs=2) as client:
        client.act({"mark": np.zeros(2)})
        before = list(policy.tasks)
        with pytest.raises(SpecError):
            client.reset(env_ids)
        client.act({"mark": np.zeros(2)})
    assert policy.tasks == before


def test_an_observation_that_is_no_dict_is_refused_and_the_session_goes_on() -> None:
    with connect(MarkingPolicy(), example={"mark": np.zeros(2)}, num_envs=2) as client:
        with pytest.raises(SpecError, match="dict"):
            client.act(np.zeros(2))  # type: ignore[arg-type]
        assert client.act({"mark": np.zeros(2)})["action"].shape == (2, 4)


def test_names_are_checked_also_while_a_chunk_lasts() -> None:
    with connect(MarkingPolicy(horizon=3), example={"mark": np.zeros(2)}, num_envs=2) as client:
        client.act({"mark": np.zeros(2)})
        with pytest.raises(SpecError, match="nonsense"):
            client.act({"nonsense": 1})
        assert client.act({"mark": np.ones(2)})["action"][:, 0].tolist() == [0.0, 0.0]
