"""One suite that every way of reaching a policy must pass, so that none behaves differently from the others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from shmbridge.client import Client
from shmbridge.errors import LocalProtocolError, PolicyRaisedError, SpecError
from shmbridge.policy import Policy
from shmbridge.testing.fakes import FAIL_AT, MarkingPolicy, marks_of

Open = Callable[[Policy, int], AbstractContextManager[Client]]
"""Opens a session of so many environments with a policy, over the transport under test. It offers ``mark`` and ``unused``."""
Check = Callable[[Open], None]


def check_transport(open_client: Open) -> None:
    """Run every check over one transport.

    Raises:
        AssertionError: What is wrong.
    """
    for check in TRANSPORT_CHECKS:
        check(open_client)


def check_answers_match_observations(open_client: Open) -> None:
    """Each action answers the observation just given, in every row."""
    with open_client(MarkingPolicy(), 3) as client:
        for number in range(50):
            reply = client.act(_observation(3, number))
            assert marks_of(reply["action"]) == [number] * 3, f"observation {number} was answered by {marks_of(reply['action'])}"
            assert reply["action"][:, 1].tolist() == [0, 1, 2], "rows are not those of their environments"


def check_loaned_slots_carry_what_was_written(open_client: Open) -> None:
    """What is written in place arrives; a spent slot is refused."""
    with open_client(MarkingPolicy(), 2) as client:
        for number in range(5):
            slot = client.loan()
            slot["mark"][:] = number
            assert client.loan() is slot, "an unsent slot must be lent again"
            assert marks_of(client.infer(slot)["action"]) == [number] * 2
            try:
                client.infer(slot)
            except LocalProtocolError:
                continue
            raise AssertionError("a spent slot was accepted")


def check_chunks_are_played_to_their_end(open_client: Open) -> None:
    """Of a chunk of three, two more actions are played without asking; steps and ages say so."""
    with open_client(MarkingPolicy(horizon=3), 2) as client:
        for number in range(6):
            reply = client.act(_observation(2, number))
            asked = number - number % 3
            assert marks_of(reply["action"]) == [asked] * 2
            assert reply["action"][:, 3].tolist() == [number % 3] * 2, "the chunk was not played in order"
            assert reply.step.tolist() == [asked] * 2 and reply.age.tolist() == [number % 3] * 2


def check_only_used_up_chunks_are_asked_for(open_client: Open) -> None:
    """After the reset of one environment, only that one gets a new chunk."""
    with open_client(MarkingPolicy(horizon=3), 2) as client:
        client.act(_observation(2, 0))
        client.reset([1], "again")
        reply = client.act(_observation(2, 1))
        assert marks_of(reply["action"]) == [0, 1], "the environment that was not reset lost its chunk, or the other kept it"


def check_resets_travel_with_the_observation(open_client: Open) -> None:
    """Resets merge until an observation is sent, reach the policy once, and bring the task."""
    policy = MarkingPolicy()
    with open_client(policy, 3) as client:
        client.act(_observation(3, 0))
        policy.tasks.clear()
        client.reset([0, 2], ["pull", "push"])
        client.reset([2], "lift")
        counts = client.act(_observation(3, 1))["action"][:, 2].tolist()
        client.act(_observation(3, 2))
        assert policy.tasks == [(0, "pull"), (2, "lift")], f"the policy was told {policy.tasks}"
        assert counts == [2, 1, 2]


def check_failures_reach_the_caller_and_the_session_goes_on(open_client: Open) -> None:
    """The policy's exception comes with its traceback; the next observation is answered, and a reset is not lost."""
    with open_client(MarkingPolicy(), 1) as client:
        client.act(_observation(1, 0))
        for _ in range(5):
            try:
                client.act(_observation(1, FAIL_AT))
            except PolicyRaisedError as error:
                assert error.error_type == "ValueError" and "infer" in error.remote_traceback, "the traceback is missing"
            else:
                raise AssertionError("the policy's failure was not told")
        assert marks_of(client.act(_observation(1, 7))["action"]) == [7]


def check_submitted_answers_come_in_order(open_client: Open) -> None:
    """Two observations under way are answered in order; a third is refused until one is polled; infer drops what nobody polled."""
    with open_client(MarkingPolicy(), 1) as client:
        steps = [client.submit(_observation(1, number)) for number in (1, 2)]
        try:
            client.submit(_observation(1, 3))
        except LocalProtocolError:
            pass
        else:
            raise AssertionError("more observations than slots were accepted")
        for step, number in zip(steps, (1, 2), strict=True):
            reply = client.poll(timeout=10)
            assert reply is not None and marks_of(reply["action"]) == [number] and reply.step.tolist() == [step]
        client.submit(_observation(1, 4))
        assert marks_of(client.infer(_observation(1, 5))["action"]) == [5], "a stale answer was taken for the current one"


def check_infer_makes_room_for_itself(open_client: Open) -> None:
    """However many answers nobody polled, infer is answered, and with its own answer."""
    with open_client(MarkingPolicy(), 1) as client:
        for number in range(0, 60, 3):
            for ahead in (0, 1):
                client.submit(_observation(1, number + ahead))
            found = marks_of(client.infer(_observation(1, number + 2))["action"])
            assert found == [number + 2], f"observation {number + 2} was answered by {found}"


def check_wrong_observations_are_refused_unsent(open_client: Open) -> None:
    """Another dtype, another shape, NaN, a missing and an unknown tensor raise SpecError; then everything goes on."""
    values: list[np.ndarray] = [np.zeros(2, np.float32), np.zeros((2, 1)), np.array([0.0, np.nan])]
    wrong: list[dict[str, np.ndarray]] = [{"mark": value} for value in values]
    wrong += [{}, {"mark": np.zeros(2), "marc": np.zeros(2)}]
    with open_client(MarkingPolicy(), 2) as client:
        for observation in wrong:
            try:
                client.act(observation)
            except SpecError:
                continue
            raise AssertionError(f"accepted: {observation}")
        assert marks_of(client.act(_observation(2, 3))["action"]) == [3, 3]


TRANSPORT_CHECKS: tuple[Check, ...] = (
    check_answers_match_observations,
    check_loaned_slots_carry_what_was_written,
    check_chunks_are_played_to_their_end,
    check_only_used_up_chunks_are_asked_for,
    check_resets_travel_with_the_observation,
    check_failures_reach_the_caller_and_the_session_goes_on,
    check_submitted_answers_come_in_order,
    check_infer_makes_room_for_itself,
    check_wrong_observations_are_refused_unsent,
)


def _observation(num_envs: int, mark: float) -> dict[str, np.ndarray]:
    return {"mark": np.full(num_envs, float(mark)), "unused": np.zeros((num_envs, 3), np.uint8)}
