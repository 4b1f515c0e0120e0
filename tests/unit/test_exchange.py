"""Requests and answers by number: a late answer is never taken for a current one."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeConnection
from helpers import make_agreement

from shmbridge.errors import LocalProtocolError, PolicyRaisedError, RemoteProtocolError
from shmbridge.exchange import Exchange, Request
from shmbridge.memory.waiting import Deadline
from shmbridge.messages import Failure
from shmbridge.tasks import TaskChanges

SOON = Deadline(0.0)


class Bench:
    """An exchange over a fake connection."""

    def __init__(self, *, automatic: bool = False, slots: int = 2) -> None:
        self.connection = FakeConnection(make_agreement(2, slots=slots), automatic=automatic)
        self.exchange = Exchange(self.connection)

        self.episodes = np.array([3, 4], np.uint64)
        self.changes = TaskChanges()

    def publish(self, number: float, *, rows: tuple[bool, bool] | None = None) -> None:
        """Publish an observation of that number, with the changes that wait, which go with it."""
        slot = self.connection.loan(SOON)
        assert slot is not None
        slot.tensors["q"][...] = number
        asked = None if rows is None else np.array(rows)
        self.exchange.publish(slot, rows=asked, episodes=self.episodes, changes=self.changes, step=int(number) * 10, write=0.5)
        self.changes.clear()

    def take(self) -> Request | None:
        return self.exchange.take_next(SOON)


def number_of(answer: Request | None) -> float:
    assert answer is not None
    return float(answer.actions["action"][0, 0, 0])


def test_requests_are_numbered_from_one() -> None:
    bench = Bench(automatic=True)
    for expected in (1, 2):
        bench.publish(expected)
        assert bench.exchange.sequence == expected
        assert bench.connection.published[-1] == expected
        assert number_of(bench.take()) == expected


def test_an_answer_belongs_to_its_request() -> None:
    bench = Bench(automatic=True)
    bench.publish(1)
    answer = bench.take()
    assert answer is not None
    assert (answer.sequence, answer.step, answer.rows, answer.answered) == (1, 10, None, None)
    assert answer.episodes is bench.episodes
    assert answer.timing.write == 0.5
    assert answer.timing.infer == pytest.approx(0.001)
    assert answer.timing.wait >= 0
    assert answer.timing.total >= 0.5


def test_an_answer_is_a_copy_and_its_slot_goes_back() -> None:
    bench = Bench(automatic=True)
    bench.publish(1)
    answer = bench.take()
    assert bench.connection.leases == 0
    bench.publish(2)
    bench.publish(3)
    assert number_of(answer) == 1


def test_words_are_written_only_as_far_as_they_count() -> None:
    bench = Bench(automatic=True)
    bench.changes.begin({1: "öffne"})
    bench.publish(1)
    bench.publish(2, rows=(False, True))
    first, second = bench.connection.observations
    assert (first["resets"], first["instructions"], first["rows"]) == ({1: "öffne"}, {}, [0, 1])
    assert (second["resets"], second["instructions"], second["rows"]) == ({}, {}, [1])
    assert second["episodes"] == [3, 4]
    assert (first["header"].has_changes, first["header"].all_rows) == (1, 1)
    assert (second["header"].has_changes, second["header"].all_rows) == (0, 0)


def test_changes_do_not_linger_into_the_next_use_of_a_slot() -> None:
    bench = Bench(automatic=True)
    bench.changes.begin({0: "a", 1: "b"})
    bench.publish(1)
    bench.publish(2)
    bench.take()
    bench.changes.instruct({0: "c"})
    bench.publish(3)
    assert bench.connection.observations[2]["resets"] == {}
    assert bench.connection.observations[2]["instructions"] == {0: "c"}


def test_rows_of_a_partial_request_do_not_linger_either() -> None:
    bench = Bench(automatic=True)
    asked = [(True, False), (False, True), None, (True, False), (False, True), (True, True)]
    for number, rows in enumerate(asked):
        bench.publish(number, rows=rows)
        bench.take()
    assert [seen["rows"] for seen in bench.connection.observations] == [[0], [1], [0, 1], [0], [1], [0, 1]]


def test_new_episodes_and_instructions_travel_in_one_observation() -> None:
    bench = Bench(automatic=True)
    bench.changes.begin({0: "pull"})
    bench.changes.instruct({1: "push"})
    bench.publish(1)
    (seen,) = bench.connection.observations
    assert (seen["resets"], seen["instructions"]) == ({0: "pull"}, {1: "push"})


@pytest.mark.parametrize("slots", [2, 3])
def test_the_episodes_in_a_slot_are_right_however_often_it_was_used_before(slots: int) -> None:
    """They are written only where they changed since that very slot was last written."""
    bench = Bench(automatic=True, slots=slots)
    rng = np.random.default_rng(slots)
    for number in range(40):
        if rng.random() < 0.4:
            bench.episodes = bench.episodes + rng.integers(0, 3, 2).astype(np.uint64)
        bench.publish(number)
        bench.take()
        assert bench.connection.observations[-1]["episodes"] == bench.episodes.tolist()


def test_episodes_that_a_slot_holds_already_are_not_written_again() -> None:
    bench = Bench(automatic=True)
    for number in range(4):
        bench.publish(number)
        bench.take()
        if number == 1:
            slot = bench.connection.loan(SOON)
            assert slot is not None
            slot.words["@episodes"][:] = 99
    assert [seen["episodes"] for seen in bench.connection.observations] == [[3, 4], [3, 4], [99, 99], [3, 4]]
    bench.episodes = bench.episodes + np.uint64(1)
    bench.publish(4)
    assert bench.connection.observations[4]["episodes"] == [4, 5]


def test_an_answer_to_some_rows_says_which() -> None:
    bench = Bench()
    bench.publish(1, rows=(False, True))
    bench.connection.answer()
    answer = bench.take()
    assert answer is not None and answer.answered is not None
    assert answer.answered.tolist() == [False, True]


def test_an_answer_that_leaves_out_rows_says_so_also_where_all_were_asked_for() -> None:
    bench = Bench()
    bench.publish(1)
    bench.connection.answer(rows=[0])
    answer = bench.take()
    assert answer is not None and answer.answered is not None
    assert answer.answered.tolist() == [True, False]


def test_requests_and_the_rows_asked_for_are_counted() -> None:
    bench = Bench(automatic=True)
    for number, rows in enumerate([None, (True, False), (False, True), None]):
        bench.publish(number, rows=rows)
        bench.take()
    assert (bench.exchange.sequence, bench.exchange.rows, bench.exchange.discarded) == (4, 6, 0)


def test_one_request_more_than_there_are_slots_is_refused_and_changes_nothing() -> None:
    bench = Bench()
    bench.publish(1)
    bench.publish(2)
    with pytest.raises(LocalProtocolError, match="as many as there are slots: poll before submitting more"):
        bench.publish(3)
    assert (bench.exchange.sequence, bench.connection.published) == (2, [1, 2])
    bench.connection.answer()
    assert number_of(bench.take()) == 1


def test_no_answer_in_time_consumes_nothing() -> None:
    bench = Bench()
    bench.publish(1)
    assert bench.take() is None
    bench.connection.answer()
    assert number_of(bench.take()) == 1


def test_an_abandoned_answer_is_dropped_when_it_comes() -> None:
    bench = Bench()
    bench.publish(1)
    bench.exchange.abandon_all()
    assert bench.exchange.outstanding == 0
    bench.publish(2)
    bench.connection.answer()
    bench.connection.answer()
    assert number_of(bench.take()) == 2
    assert bench.connection.leases == 0


def test_an_abandoned_answer_that_does_not_come_is_waited_for() -> None:
    bench = Bench()
    bench.publish(1)
    bench.exchange.abandon_all()
    bench.publish(2)
    assert bench.take() is None
    bench.connection.answer()
    assert bench.take() is None
    bench.connection.answer()
    assert number_of(bench.take()) == 2


def test_a_failure_that_nobody_waits_for_is_dropped_like_any_answer() -> None:
    bench = Bench()
    bench.publish(1)
    bench.exchange.abandon_all()
    bench.connection.answer(failure=Failure("PolicyRaisedError", "late"))
    assert bench.exchange.drop_abandoned(SOON)
    bench.publish(2)
    bench.connection.answer()
    assert number_of(bench.take()) == 2


def test_there_is_room_for_no_more_requests_than_answers() -> None:
    bench = Bench()
    bench.publish(1)
    assert not bench.exchange.is_full
    bench.publish(2)
    assert bench.exchange.is_full
    bench.exchange.abandon_oldest()
    assert not bench.exchange.drop_abandoned(SOON)
    bench.connection.answer()
    assert bench.exchange.drop_abandoned(SOON)
    assert not bench.exchange.is_full


def test_dropping_waits_only_where_the_ring_is_full() -> None:
    bench = Bench()
    bench.publish(1)
    bench.exchange.abandon_all()
    assert bench.exchange.drop_abandoned(Deadline(60.0))


def test_outstanding_counts_what_somebody_wants() -> None:
    bench = Bench(slots=3)
    for number in (1, 2, 3):
        bench.publish(number)
    assert bench.exchange.outstanding == 3
    bench.exchange.abandon_oldest()
    assert bench.exchange.outstanding == 2
    bench.exchange.abandon_all()
    assert bench.exchange.outstanding == 0


def test_a_failure_is_raised_with_its_traceback_and_the_next_answer_is_right() -> None:
    bench = Bench()
    bench.publish(1)
    bench.publish(2)
    bench.connection.answer(failure=Failure("PolicyRaisedError", "the policy raised ValueError", "ValueError", "Traceback …"))
    bench.connection.answer()
    with pytest.raises(PolicyRaisedError) as failure:
        bench.take()
    assert (failure.value.error_type, failure.value.remote_traceback) == ("ValueError", "Traceback …")
    assert number_of(bench.take()) == 2
    assert bench.connection.leases == 0


@pytest.mark.parametrize("change", [{"sequence": 2}, {"sequence": 0}, {"generation": 8}])
def test_an_answer_with_another_number_is_the_hosts_fault(change: dict[str, int]) -> None:
    bench = Bench()
    bench.publish(1)
    bench.connection.answer(**change)
    with pytest.raises(RemoteProtocolError, match="expected the answer to observation 1 of generation 7"):
        bench.take()


def test_an_abandoned_answer_with_another_number_is_the_hosts_fault_too() -> None:
    bench = Bench()
    bench.publish(1)
    bench.exchange.abandon_all()
    bench.connection.answer(sequence=9)
    with pytest.raises(RemoteProtocolError):
        bench.exchange.drop_abandoned(SOON)


def test_an_unreadable_failure_is_the_hosts_fault() -> None:
    bench = Bench()
    bench.publish(1)
    bench.connection.answer(outcome=1)
    with pytest.raises(RemoteProtocolError, match="cannot be read"):
        bench.take()


def test_dropped_answers_are_counted() -> None:
    bench = Bench()
    for number in (1, 2):
        bench.publish(number)
        bench.connection.answer()
    bench.exchange.abandon_oldest()
    assert number_of(bench.take()) == 2
    assert bench.exchange.discarded == 1
    bench.publish(3)
    bench.exchange.abandon_all()
    bench.connection.answer()
    assert bench.exchange.drop_abandoned(SOON)
    assert bench.exchange.discarded == 2
    assert bench.exchange.is_idle


def test_abandoning_the_oldest_of_none_is_nothing() -> None:
    bench = Bench(automatic=True)
    bench.exchange.abandon_oldest()
    bench.publish(1)
    assert number_of(bench.take()) == 1


def test_a_request_is_awaited_until_the_host_has_answered_it_whether_anyone_took_the_answer_or_not() -> None:
    bench = Bench()
    assert not bench.exchange.is_awaited
    bench.publish(1)
    assert bench.exchange.is_awaited
    bench.connection.answer()
    assert not bench.exchange.is_awaited
    bench.publish(2)
    assert bench.exchange.is_awaited
    bench.exchange.abandon_all()
    assert bench.exchange.is_awaited, "the host has it, whoever gave up"
    bench.connection.answer()
    assert not bench.exchange.is_awaited


@pytest.mark.parametrize(("answered", "newest"), [(0, None), (1, 1), (2, 2), (3, 3)])
def test_of_the_answers_that_have_arrived_only_the_newest_stays(answered: int, newest: float | None) -> None:
    bench = Bench(slots=3)
    for number in (1, 2, 3):
        bench.publish(number)
    for _ in range(answered):
        bench.connection.answer()
    bench.exchange.abandon_all_but_newest_arrived()
    answer = bench.take()
    assert (None if answer is None else number_of(answer)) == newest
    assert bench.exchange.discarded == max(0, answered - 1)
