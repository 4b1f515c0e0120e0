"""The simulator's side, over a connection that the test plays."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from fakes import FakeConnection
from helpers import make_agreement

from shmbridge.arrays import NumpyArrays
from shmbridge.client import Client
from shmbridge.connecting import connect
from shmbridge.errors import ClosedError, LocalProtocolError, PeerLostError, PolicyRaisedError, RemoteProtocolError, ShmbridgeError, SpecError, TimedOutError
from shmbridge.messages import Failure
from shmbridge.testing import MarkingPolicy

NUM_ENVS, HORIZON = 3, 4


def make_client(*, automatic: bool = True, num_envs: int | None = NUM_ENVS, slots: int = 2, horizon: int = HORIZON) -> tuple[Client, FakeConnection]:
    connection = FakeConnection(make_agreement(num_envs or 1, horizon=horizon, slots=slots), automatic=automatic)
    return Client(connection, offered=["q", "unused"], batched=num_envs is not None, timeout=0.05, arrays=NumpyArrays()), connection


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
    """Against the plainest model: the action of each environment is its last asked-for observation plus the steps played since."""
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
