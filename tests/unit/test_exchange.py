"""Requests and answers by number: a late answer is never taken for a current one."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeConnection
from helpers import make_agreement

from shmbridge.errors import PolicyRaisedError, RemoteProtocolError
from shmbridge.exchange import Answer, Exchange
from shmbridge.memory.waiting import Deadline
from shmbridge.messages import Failure

SOON = Deadline(0.0)


class Bench:
    """An exchange over a fake connection."""

    def __init__(self, *, automatic: bool = False, slots: int = 2) -> None:
        self.connection = FakeConnection(make_agreement(2, slots=slots), automatic=automatic)
        self.exchange = Exchange(self.connection)

    def publish(self, number: float, *, rows: tuple[bool, bool] = (True, True), resets: dict[int, str] | None = None) -> None:
        slot = self.connection.loan(SOON)
        assert slot is not None
        slot.tensors["q"][...] = number
        episodes = np.array([3, 4], np.uint64)
        self.exchange.publish(slot, rows=np.array(rows), episodes=episodes, resets=resets or {}, step=int(number) * 10, write=0.5)

    def take(self) -> Answer | None:
        return self.exchange.take_next(SOON)


def number_of(answer: Answer | None) -> float:
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
    assert (answer.request.sequence, answer.request.step, answer.request.write) == (1, 10, 0.5)
    assert answer.rows.tolist() == [True, True]
    assert answer.episodes.tolist() == [3, 4]
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
    bench.publish(1, resets={1: "öffne"})
    bench.publish(2, rows=(False, True))
    first, second = bench.connection.observations
    assert first["resets"] == {1: "öffne"}
    assert first["rows"] == [0, 1]
    assert second["resets"] == {}
    assert second["rows"] == [1]
    assert second["episodes"] == [3, 4]
    bench.take()
    bench.publish(3, resets={0: ""})
    assert bench.connection.observations[2]["resets"] == {0: ""}


def test_no_answer_in_time_consumes_nothing() -> None:
    bench = Bench()
    bench.publish(1)
    assert bench.take() is None
    bench.connection.answer()
    assert number_of(bench.take()) == 1


def test_an_abandoned_answer_is_dropped_when_it_comes() -> None:
    bench = Bench()
    bench.publish(1)
    bench.exchange.abandon(1)
    assert bench.exchange.outstanding == 0
    bench.publish(2)
    bench.connection.answer()
    bench.connection.answer()
    assert number_of(bench.take()) == 2
    assert bench.connection.leases == 0


def test_an_abandoned_answer_that_does_not_come_is_waited_for() -> None:
    bench = Bench()
    bench.publish(1)
    bench.exchange.abandon(1)
    bench.publish(2)
    assert bench.take() is None
    bench.connection.answer()
    assert bench.take() is None
    bench.connection.answer()
    assert number_of(bench.take()) == 2


def test_a_failure_that_nobody_waits_for_is_dropped_like_any_answer() -> None:
    bench = Bench()
    bench.publish(1)
    bench.exchange.abandon(1)
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
    bench.exchange.abandon(2)
    assert not bench.exchange.drop_abandoned(SOON)
    bench.connection.answer()
    assert bench.exchange.drop_abandoned(SOON)
    assert not bench.exchange.is_full


def test_dropping_waits_only_where_the_ring_is_full() -> None:
    bench = Bench()
    bench.publish(1)
    bench.exchange.abandon(1)
    assert bench.exchange.drop_abandoned(Deadline(60.0))


def test_outstanding_counts_what_somebody_wants() -> None:
    bench = Bench(slots=3)
    for number in (1, 2, 3):
        bench.publish(number)
    assert bench.exchange.outstanding == 3
    bench.exchange.abandon(2)
    assert bench.exchange.outstanding == 1
    bench.exchange.abandon(1)
    assert bench.exchange.outstanding == 1


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
    bench.exchange.abandon(1)
    bench.connection.answer(sequence=9)
    with pytest.raises(RemoteProtocolError):
        bench.exchange.drop_abandoned(SOON)


def test_an_unreadable_failure_is_the_hosts_fault() -> None:
    bench = Bench()
    bench.publish(1)
    bench.connection.answer(outcome=1)
    with pytest.raises(RemoteProtocolError, match="cannot be read"):
        bench.take()
