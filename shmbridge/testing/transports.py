"""One suite that every way of reaching a policy must pass, so that none behaves differently from the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from shmbridge.client import Client
from shmbridge.errors import LocalProtocolError, PolicyError, PolicyRaisedError, SpecError
from shmbridge.policy import Policy
from shmbridge.reply import Reply
from shmbridge.testing.fakes import BLOCK_AT, FAIL_AT, MarkingPolicy, marks_of


class Open(Protocol):
    """Opens sessions over the transport under test."""

    def __call__(self, policy: Policy, num_envs: int, /, **options: Any) -> AbstractContextManager[Client]:
        """Return a session of so many environments with a policy, which offers ``mark`` and ``unused``.

        Args:
            policy: Lives in this process, whatever carries the observations to it.
            num_envs: Environments.
            options: Given on to :func:`shmbridge.connect`.
        """


Check = Callable[[Open], None]
_BUSY_SECONDS = 0.2
"""How long a policy is kept busy, so that something is dropped; where it runs in this thread, nothing is."""
_ANSWER_SECONDS = 30.0


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


def check_past_observations_are_stacked(open_client: Open) -> None:
    """A policy of several steps sees the past of each environment's own episode, also what was not sent to it."""
    policy = MarkingPolicy(horizon=2, observation_steps=3)
    with open_client(policy, 2) as client:
        policy.stacks.clear()
        for number in range(1, 6):
            if number == 4:
                client.reset([1])
            reply = client.act(_observation(2, number))
            assert marks_of(reply["action"]) == [number - (number + 1) % 2, number - (number + 1) % 2 if number < 4 else 4]
    expected = [[[1, 1, 1]] * 2, [[1, 2, 3]] * 2, [[4, 4, 4]], [[3, 4, 5]]]
    assert policy.stacks == expected, f"the policy saw {policy.stacks}, expected {expected}"


def check_instructions_travel_with_the_observation_and_end_chunks(open_client: Open) -> None:
    """An instruction begins no episode, comes once and in order, and makes its environments ask anew."""
    policy = MarkingPolicy(horizon=3)
    with open_client(policy, 3) as client:
        client.act(_observation(3, 0))
        policy.tasks.clear()
        client.instruct([1, 2], ["push", "pull"])
        client.instruct([2], "lift")
        client.reset([0], "go")
        action = client.act(_observation(3, 1))["action"]
        assert marks_of(action) == [1, 1, 1], "what was asked for under another instruction was played on"
        assert action[:, 2].tolist() == [2, 1, 1], "an instruction is no new episode"
        client.act(_observation(3, 2))
    assert (policy.tasks, policy.instructions) == ([(0, "go")], [(1, "push"), (2, "lift")]), f"the policy was told {policy.tasks}, {policy.instructions}"


class _Refusing(MarkingPolicy):
    """Takes an instruction at the beginning of an episode only."""

    instruct = Policy.instruct


def check_refused_instructions_are_told_until_an_episode_begins(open_client: Open) -> None:
    """A policy that does not take instructions says so on every observation until a reset; then everything goes on."""
    with open_client(_Refusing(horizon=3), 2) as client:
        client.act(_observation(2, 0))
        client.instruct([1], "push")
        for _ in range(5):
            try:
                client.act(_observation(2, 1))
            except PolicyError as error:
                assert "_Refusing" in str(error), f"the refusal does not say whose it is: {error}"
            else:
                raise AssertionError("the policy's refusal was not told")
        client.reset([1], "push")
        assert marks_of(client.act(_observation(2, 2))["action"]) == [0, 2]


def check_latest_only_never_waits_and_loses_nothing_but_observations(open_client: Open) -> None:
    """While the policy is busy observations are dropped and counted; each answer tells its step; a reset is not lost."""
    policy = MarkingPolicy()
    with open_client(policy, 1, latest_only=True) as client:
        client.infer(_observation(1, 0))
        policy.tasks.clear()
        policy.gate.clear()
        threading.Timer(_BUSY_SECONDS, policy.gate.set).start()
        steps = [client.submit(_observation(1, BLOCK_AT))]
        client.reset([0], "kept")
        replies = _submit_and_poll(client, steps)
        statistics = client.statistics()
    for reply in replies:
        step = int(reply.step[0])
        assert steps[step - 1] == step, f"an answer to step {step}, which was not sent"
        assert marks_of(reply["action"]) == [BLOCK_AT if step == 1 else step - 1], f"the answer to step {step} is another's"
        assert reply.valid.tolist() == [step > 1], "only what was sent before the reset belongs to another episode"
    answered = [int(reply.step[0]) for reply in replies]
    assert answered == sorted(set(answered)), f"answers went back in time: {answered}"
    assert policy.tasks == [(0, "kept")], f"the policy was told {policy.tasks}"
    sent = sum(step is not None for step in steps)
    assert (statistics.dropped, statistics.requests) == (len(steps) - sent, 1 + sent), f"{steps} were counted as {statistics}"


def _submit_and_poll(client: Client, steps: list[int | None]) -> list[Reply]:
    """Go on until three answers came; add what each submission returned to ``steps``."""
    replies: list[Reply] = []
    end = time.monotonic() + _ANSWER_SECONDS
    while len(replies) < 3:
        assert time.monotonic() < end, f"{len(steps)} observations brought {len(replies)} answers: the policy is starved"
        steps.append(client.submit(_observation(1, len(steps))))
        reply = client.poll(timeout=0.001)
        replies += [reply] if reply is not None else []
    return replies


def check_rules_of_chunks_are_kept(open_client: Open) -> None:
    """Replanning, latency and refilling everyone act by step, so the same way over every transport."""
    cases: dict[str, tuple[dict[str, Any], list[int]]] = {
        "replan_steps=2": ({"replan_steps": 2}, [0, 0, 2, 2, 4, 4, 6, 6]),
        "latency_steps=1": ({"latency_steps": 1}, [0, 0, 0, 0, 3, 3, 3, 6]),
        "both": ({"latency_steps": 1, "replan_steps": 2}, [0, 0, 1, 2, 3, 4, 5, 6]),
    }
    for name, (options, expected) in cases.items():
        with open_client(MarkingPolicy(horizon=4), 2, **options) as client:
            replies = [client.act(_observation(2, number)) for number in range(8)]
        found = [int(reply.step[0]) for reply in replies]
        assert found == expected, f"with {name}, actions answer the steps {found}, expected {expected}"
        assert [marks_of(reply["action"])[0] for reply in replies] == expected
        assert [int(reply["action"][0, 3]) for reply in replies] == [step - asked for step, asked in enumerate(expected)]
    with open_client(MarkingPolicy(horizon=3), 2, refill="all") as client:
        client.act(_observation(2, 0))
        client.reset([1])
        assert marks_of(client.act(_observation(2, 1))["action"]) == [1, 1], "refill='all' left somebody out"


def check_statistics_count_what_was_done(open_client: Open) -> None:
    """Steps, requests, rows and discarded answers are those of the session; rings, where there are any, agree with them."""
    with open_client(MarkingPolicy(horizon=2), 3) as client:
        for number in range(4):
            client.act(_observation(3, number))
        client.reset([2])
        client.act(_observation(3, 4))
        client.reset([0])
        client.act(_observation(3, 5))
        client.submit(_observation(3, 6))
        client.infer(_observation(3, 7))
        found = client.statistics()
    assert (found.steps, found.requests, found.rows) == (8, 6, 3 + 3 + 3 + 1 + 3 + 3), f"counted {found}"
    assert (found.dropped, found.discarded) == (0, 1), f"counted {found}"
    for ring in (found.observation_ring, found.action_ring):
        assert ring is None or (ring.moved, ring.full, ring.held) == (6, 0, 0), f"after every answer was taken, a ring stands at {ring}"


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
    check_past_observations_are_stacked,
    check_instructions_travel_with_the_observation_and_end_chunks,
    check_refused_instructions_are_told_until_an_episode_begins,
    check_latest_only_never_waits_and_loses_nothing_but_observations,
    check_rules_of_chunks_are_kept,
    check_statistics_count_what_was_done,
)


def _observation(num_envs: int, mark: float) -> dict[str, np.ndarray]:
    return {"mark": np.full(num_envs, float(mark)), "unused": np.zeros((num_envs, 3), np.uint8)}
