"""Sessions within one process keep to the rules of shared memory."""

from __future__ import annotations

import pytest
from helpers import make_agreement

from shmbridge.errors import ClosedError, LocalProtocolError
from shmbridge.layout import PAGE, ActionHeader, Slot
from shmbridge.memory.waiting import Deadline
from shmbridge.messages import HostState
from shmbridge.transport.local import LocalConnection

SOON = Deadline(0.0)


def answer(observation: Slot, action: Slot) -> None:
    """Answer with the first number of the observation, everywhere."""
    header = observation.read_header()
    action.tensors["action"][...] = observation.tensors["q"][0, 0]
    action.write_header(ActionHeader(header.generation, header.sequence, 0, 0, 1))


@pytest.fixture
def connection() -> LocalConnection:
    return LocalConnection(make_agreement(2), answer)


def submit(connection: LocalConnection, number: int) -> None:
    slot = connection.loan(SOON)
    assert slot is not None
    slot.tensors["q"][...] = number
    connection.publish(number)


def test_answers_come_in_the_order_of_the_observations(connection: LocalConnection) -> None:
    for first in range(0, 10, 2):
        submit(connection, first)
        submit(connection, first + 1)
        for number in (first, first + 1):
            slot = connection.take(SOON)
            assert slot is not None
            assert slot.tensors["action"][0, 0, 0] == number
            connection.release(slot)
    assert connection.take(SOON) is None


def test_a_loan_is_the_same_until_it_is_published(connection: LocalConnection) -> None:
    slot = connection.loan(SOON)
    assert connection.loan(SOON) is slot
    connection.publish(1)
    assert connection.loan(SOON) is not slot


def test_answers_are_there_as_soon_as_an_observation_was_sent(connection: LocalConnection) -> None:
    for expected in (1, 2):
        submit(connection, expected)
        assert connection.arrived == expected
    slot = connection.take(SOON)
    assert slot is not None
    assert connection.arrived == 1


def test_there_are_no_rings_to_tell_of(connection: LocalConnection) -> None:
    assert connection.statistics() is None


def test_more_answers_than_slots_are_our_callers_fault(connection: LocalConnection) -> None:
    submit(connection, 1)
    submit(connection, 2)
    with pytest.raises(LocalProtocolError, match="poll the answers"):
        submit(connection, 3)


def test_the_policys_view_is_read_only_and_of_the_same_memory() -> None:
    def look(observation: Slot, action: Slot) -> None:
        with pytest.raises(ValueError, match="read-only"):
            observation.tensors["q"][...] = 0
        seen.append(float(observation.tensors["q"][0, 0]))

    seen: list[float] = []
    submit(LocalConnection(make_agreement(1), look), 5)
    assert seen == [5.0]


def test_slots_begin_on_pages_as_in_a_mapping(connection: LocalConnection) -> None:
    slot = connection.loan(SOON)
    assert slot is not None
    start = slot.tensors["q"].ctypes.data - next(field.offset for field in connection.agreement.layouts.observation.fields if field.name == "q")
    assert start % PAGE == 0


def test_a_closed_session_says_so(connection: LocalConnection) -> None:
    connection.close()
    connection.close()
    for call in (
        lambda: connection.loan(SOON),
        lambda: connection.take(SOON),
        lambda: connection.publish(1),
        lambda: connection.arrived,
        lambda: connection.host_status(SOON),
    ):
        with pytest.raises(ClosedError, match="closed here"):
            call()


def test_there_is_always_a_state_and_never_a_host_to_stop(connection: LocalConnection) -> None:
    status = connection.host_status(SOON)
    assert status is not None and status.state is HostState.READY
    with pytest.raises(LocalProtocolError, match="no host to stop"):
        connection.stop_host(SOON)
