"""A policy's side of one session, over plain memory: resets, partial rows, failures, and what it must not keep."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import sample_policies as sample
from helpers import OBSERVATION, SlotPair, make_agreement
from sample_policies import Affine, Commanded, Instructed

import shmbridge
from shmbridge.errors import ClosedError, PolicyError, PolicyRaisedError, RemoteProtocolError, SpecError
from shmbridge.layout import Change, ObservationHeader, Outcome
from shmbridge.messages import MAX_SLOTS, decode_failure, exception_from_failure
from shmbridge.policy import PolicySpecs
from shmbridge.session import ActionCheck, Offer, PolicySession, agree, warm_up
from shmbridge.spec import TensorSpec

WRONG_ANSWERS = [sample.WRONG_SHAPE, sample.WRONG_NAME, sample.WRONG_DTYPE, sample.NAN, sample.NO_DICT]
FAILURES = [sample.RAISE, *WRONG_ANSWERS, sample.KEEP_VIEW, sample.KEEP_ARRAY, sample.WRITE]


class Played:
    """One session with a policy, and the slots to talk to it."""

    def __init__(self, policy: shmbridge.Policy, num_envs: int = 3) -> None:
        self.agreement = make_agreement(num_envs)
        self.slots = SlotPair.of(self.agreement)
        self.session = PolicySession(policy, self.agreement)
        self.sequence = 0

    def ask(self, q: Any = 0.0, **words: Any) -> None:
        self.sequence += 1
        self.slots.write(self.sequence, q=q, **words)
        self.session.answer(self.slots.observation_read, self.slots.action)

    @property
    def failure(self) -> shmbridge.ShmbridgeError:
        assert self.slots.answer.outcome == Outcome.FAILED
        return exception_from_failure(decode_failure(self.slots.failure.encode()))


def test_an_observation_is_answered_with_its_numbers() -> None:
    played = Played(Affine())
    played.ask([[1] * 3, [2] * 3, [3] * 3], resets=dict.fromkeys(range(3), ""), episodes=[4, 5, 6])
    answer = played.slots.answer
    assert (answer.generation, answer.sequence, answer.outcome) == (7, 1, Outcome.ANSWERED)
    assert played.slots.action.tensors["action"][:, :, 0].tolist() == [[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]
    assert played.slots.action.words["@episodes"].tolist() == [4, 5, 6]
    assert played.slots.answered_rows == [0, 1, 2]
    assert answer.infer_ns > 0


def test_only_the_rows_that_ask_are_inferred_and_marked() -> None:
    policy = Affine()
    played = Played(policy)
    played.slots.action.tensors["action"][...] = -9
    played.ask([[1] * 3, [2] * 3, [3] * 3], rows=[0, 2])
    assert policy.asked == [[0, 2]]
    assert played.slots.answered_rows == [0, 2]
    assert played.slots.action.tensors["action"][:, 0, 0].tolist() == [1, -9, 3]


def test_partial_rows_do_not_linger_into_the_next_answer() -> None:
    played = Played(Affine())
    played.ask(rows=[1])
    assert played.slots.answered_rows == [1]
    played.ask(rows=[0])
    assert played.slots.answered_rows == [0]
    played.ask()
    assert played.slots.answered_rows == [0, 1, 2]


def test_what_a_policy_sees_of_some_rows_is_read_only_too() -> None:
    played = Played(Commanded())
    played.ask(sample.WRITE, rows=[0, 1])
    assert "read-only" in str(played.failure)


def test_resets_reach_the_policy_before_the_observation_they_came_with() -> None:
    policy = Affine()
    played = Played(policy)
    played.ask(resets={0: "", 2: "öffne die Tür"})
    assert policy.resets == [([0, 2], ["", "öffne die Tür"])]
    played.ask()
    assert len(policy.resets) == 1


def test_resets_are_kept_when_the_policy_raised_on_them() -> None:
    policy = sample.ResetRaises()
    played = Played(policy)
    played.ask(resets={0: "first", 1: "first"})
    assert "not yet" in str(played.failure)
    played.ask(resets={1: "second", 2: "second"})
    assert policy.resets == [([0, 1, 2], ["first", "second", "second"])]
    assert played.slots.answer.outcome == Outcome.ANSWERED


def test_resets_are_not_repeated_when_only_infer_raised() -> None:
    policy = Commanded()
    played = Played(policy)
    played.ask(sample.RAISE, resets={0: "go"})
    played.ask(1)
    assert policy.resets == [([0], ["go"])]


def test_instructions_reach_the_policy_after_the_episodes_and_before_the_observation() -> None:
    policy = Instructed()
    played = Played(policy)
    heard: list[str] = []
    policy.reset = lambda *told: heard.append(f"reset {told[1:]}")  # type: ignore[method-assign]  # to see the order
    policy.instruct = lambda *told: heard.append(f"instruct {told[1:]}")  # type: ignore[method-assign]  # likewise
    played.ask(resets={2: "pull"}, instructions={0: "öffne", 1: ""})
    assert heard == ["reset ([2], ['pull'])", "instruct ([0, 1], ['öffne', ''])"]
    played.ask()
    assert len(heard) == 2
    assert played.slots.answer.outcome == Outcome.ANSWERED


def test_an_instruction_begins_no_episode() -> None:
    policy = Instructed()
    played = Played(policy)
    played.ask(resets=dict.fromkeys(range(3), ""), episodes=[4, 5, 6])
    played.ask(instructions={1: "push"}, episodes=[4, 5, 6])
    assert len(policy.resets) == 1
    assert policy.instructions == [([1], ["push"])]
    assert played.slots.action.words["@episodes"].tolist() == [4, 5, 6]


def test_a_policy_that_takes_no_instructions_refuses_until_an_episode_begins() -> None:
    policy = Affine()
    played = Played(policy)
    played.ask(resets=dict.fromkeys(range(3), ""))
    for instructions in ({1: "push"}, None, None):
        played.ask(instructions=instructions)
        failure = played.failure
        assert type(failure) is PolicyError
        assert "Affine takes one at its beginning only; let it implement instruct()" in str(failure)
    played.ask(resets={0: ""})
    assert type(played.failure) is PolicyError, "it is another episode that began"
    played.ask(resets={1: "push"})
    assert played.slots.answer.outcome == Outcome.ANSWERED
    assert policy.resets[1:] == [([0], [""]), ([1], ["push"])]
    assert policy.asked == [[0, 1, 2]] * 2


def test_an_instruction_that_was_refused_is_told_again_with_those_that_came_since() -> None:
    class RefusesTwice(Instructed):
        refused = 0

        def instruct(self, session: Any, env_ids: Sequence[int], task: Sequence[str]) -> None:
            self.refused += 1
            if self.refused <= 2:
                raise PolicyError("not now")
            super().instruct(session, env_ids, task)

    policy = RefusesTwice()
    played = Played(policy)
    played.ask(instructions={0: "first", 1: "first"})
    played.ask(instructions={1: "second", 2: "second"})
    played.ask()
    assert policy.instructions == [([0, 1, 2], ["first", "second", "second"])]
    played.ask()
    assert len(policy.instructions) == 1


def test_episodes_that_were_told_are_not_told_again_because_an_instruction_was_refused() -> None:
    policy = Affine()
    played = Played(policy)
    played.ask(resets={0: "go"}, instructions={1: "push"})
    assert type(played.failure) is PolicyError
    played.ask()
    assert policy.resets == [([0], ["go"])]


@pytest.mark.parametrize("junk", [3, 255])
def test_a_change_of_no_known_kind_changes_nothing(junk: int) -> None:
    policy = Instructed()
    played = Played(policy)
    played.slots.write(1, q=0, resets={0: "go"})
    played.slots.observation.words["@changes"][1] = junk
    played.session.answer(played.slots.observation_read, played.slots.action)
    assert (policy.resets, policy.instructions) == ([([0], ["go"])], [])


def test_words_that_the_header_does_not_announce_are_not_read() -> None:
    policy = Instructed()
    played = Played(policy)
    played.ask(resets=dict.fromkeys(range(3), ""), episodes=[4, 5, 6])
    words = played.slots.observation.words
    words["@changes"][:], words["@rows"][:], words["@episodes"][:] = Change.INSTRUCTION, 0, 99
    played.sequence += 1
    played.slots.observation.write_header(ObservationHeader(7, played.sequence, 0, 1))
    played.session.answer(played.slots.observation_read, played.slots.action)
    assert policy.instructions == []
    assert policy.asked[-1] == [0, 1, 2]
    assert played.slots.action.words["@episodes"].tolist() == [4, 5, 6]


def test_the_answer_says_in_its_header_whether_rows_are_to_be_looked_at() -> None:
    played = Played(Affine())
    played.slots.action.words["@rows"][:] = 77
    played.ask()
    assert played.slots.answer.all_rows == 1
    assert played.slots.action.words["@rows"].tolist() == [77] * 3, "nobody reads them, so nobody need write them"
    played.ask(rows=[1])
    assert played.slots.answer.all_rows == 0
    assert played.slots.action.words["@rows"].tolist() == [0, 1, 0]


def test_the_episodes_in_an_answer_are_right_whichever_slot_it_goes_into() -> None:
    agreement = make_agreement(3)
    session = PolicySession(Affine(), agreement)
    slots = [SlotPair.of(agreement) for _ in range(3)]
    for sequence in range(1, 30):
        pair = slots[sequence % 3]
        if sequence % 4 == 1:
            episodes = [sequence, 2 * sequence, 3]
            pair.write(sequence, q=0, resets={0: ""}, episodes=episodes)
        else:
            pair.write(sequence, q=0)
        session.answer(pair.observation_read, pair.action)
        assert pair.action.words["@episodes"].tolist() == episodes


def test_episodes_that_an_answer_slot_holds_already_are_not_written_again() -> None:
    played = Played(Affine())
    played.ask(resets={0: ""}, episodes=[4, 5, 6])
    played.slots.action.words["@episodes"][:] = 99
    played.ask()
    assert played.slots.action.words["@episodes"].tolist() == [99] * 3
    played.ask(resets={0: ""}, episodes=[5, 5, 6])
    assert played.slots.action.words["@episodes"].tolist() == [5, 5, 6]


def test_requests_rows_failures_and_time_are_counted() -> None:
    played = Played(Commanded())
    played.ask()
    played.ask(rows=[0, 2])
    played.ask(sample.RAISE)
    counters = played.session.counters()
    assert (counters.requests, counters.rows, counters.failures) == (3, 5, 1)
    assert counters.infer_seconds > 0


def test_several_steps_reach_the_policy_and_so_do_some_rows_of_them() -> None:
    policy = sample.Remembering()
    agreement = make_agreement(3, observation_steps=3)
    slots = SlotPair.of(agreement)
    session = PolicySession(policy, agreement)
    stacked = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    slots.write(1, q=stacked)
    session.answer(slots.observation_read, slots.action)
    slots.write(2, q=stacked, rows=[0, 2])
    session.answer(slots.observation_read, slots.action)
    assert [seen["q"].tolist() for seen in policy.seen] == [stacked.tolist(), stacked[[0, 2]].tolist()]


def test_a_policy_that_changes_the_lists_it_is_given_changes_its_own() -> None:
    class Empties(Affine):
        def infer(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Any) -> Mapping[str, np.ndarray]:
            answer = super().infer(session, dict(observation), list(env_ids))
            env_ids.clear()
            observation.clear()  # type: ignore[attr-defined]  # it is a dict, and the policy's own
            return answer

    policy = Empties()
    played = Played(policy)
    for rows, expected in ((None, [0, 1, 2]), ([0, 2], [0, 2]), (None, [0, 1, 2])):
        played.ask(5, rows=rows)
        assert policy.asked[-1] == expected
        assert played.slots.answer.outcome == Outcome.ANSWERED
        assert played.slots.answered_rows == expected
        assert np.all(played.slots.action.tensors["action"][expected, 0] == 5)


def test_a_policy_is_not_blamed_for_what_only_garbage_still_holds() -> None:
    """An exception that was kept in a variable is a cycle: it holds the observation until the garbage collector runs."""

    class SavesItsError(Affine):
        def infer(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray]:
            rows = observation["q"][:, :2]
            try:
                if rows[0, 0] < 0:
                    raise ValueError("negative")
            except ValueError as error:
                saved = error
                raise saved from None
            return super().infer(session, observation, env_ids)

    played = Played(SavesItsError())
    gc.collect()
    gc.disable()
    try:
        played.ask(-1)
        assert "negative" in str(played.failure)
        played.ask(1)
        assert played.slots.answer.outcome == Outcome.ANSWERED
    finally:
        gc.enable()


@pytest.mark.parametrize("command", FAILURES)
def test_a_failure_answers_its_observation_and_the_session_goes_on(command: int) -> None:
    played = Played(Commanded())
    played.ask([[command] * 3, [1] * 3, [1] * 3], resets={0: ""}, episodes=9)
    assert isinstance(played.failure, PolicyRaisedError)
    assert played.slots.answer.sequence == 1
    assert played.slots.action.words["@episodes"].tolist() == [9, 9, 9]
    played.ask(5)
    assert played.slots.answer.outcome == Outcome.ANSWERED
    assert played.slots.action.tensors["action"][0, 0, 0] == 5


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (sample.RAISE, "the policy raised ValueError: told to raise"),
        (sample.WRONG_SHAPE, r"returned 'action' as \(3, 3, 3\) float32; its specs promise \(3, 4, 3\) float32"),
        (sample.WRONG_DTYPE, r"returned 'action' as \(3, 4, 3\) float64; its specs promise"),
        (sample.WRONG_NAME, r"must return a dict of \['action'\], it returned \['acton'\]"),
        (sample.NO_DICT, r"must return a dict of \['action'\], it returned list"),
        (sample.NAN, r"the policy returned 'action': NaN in rows \[0, 1, 2\]"),
        (sample.KEEP_VIEW, r"kept a view of 'q' after infer returned.*keep a copy"),
        (sample.KEEP_ARRAY, r"kept a view of 'q' after infer returned"),
    ],
)
def test_a_failure_says_what_is_wrong(command: int, text: str) -> None:
    played = Played(Commanded())
    played.ask(command)
    with pytest.raises(PolicyRaisedError, match=text):
        raise played.failure


def test_the_policys_traceback_is_told() -> None:
    played = Played(Commanded())
    played.ask(sample.RAISE)
    failure = played.failure
    assert isinstance(failure, PolicyRaisedError)
    assert failure.error_type == "ValueError"
    assert "sample_policies.py" in failure.remote_traceback
    assert 'raise ValueError("told to raise")' in str(failure)


def test_a_copy_may_be_kept() -> None:
    class Copies(Affine):
        def infer(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray]:
            self.kept = observation["q"].copy()
            return super().infer(session, observation, env_ids)

    played = Played(Copies())
    for _ in range(3):
        played.ask()
        assert played.slots.answer.outcome == Outcome.ANSWERED


def test_rows_given_as_copies_may_be_kept() -> None:
    policy = Commanded()
    played = Played(policy)
    played.ask(sample.KEEP_VIEW, rows=[0, 1])
    assert played.slots.answer.outcome == Outcome.ANSWERED
    played.ask(5)
    assert policy.kept[0].tolist() == [[sample.KEEP_VIEW] * 2]


def test_an_answer_that_is_a_view_of_the_observation_is_not_kept_by_us() -> None:
    class Echo(Affine):
        horizon = 1

        def infer(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray]:
            return {"action": observation["q"][:, None, :]}

    agreement = make_agreement(2, horizon=1)
    slots = SlotPair.of(agreement)
    session = PolicySession(Echo(), agreement)
    for sequence in (1, 2):
        slots.write(sequence, q=sequence)
        session.answer(slots.observation_read, slots.action)
        assert slots.answer.outcome == Outcome.ANSWERED
        assert slots.action.tensors["action"].tolist() == [[[sequence] * 3]] * 2


@pytest.mark.parametrize(("sequence", "generation"), [(2, 7), (0, 7), (1, 8), (1, 0), (2**64 - 1, 7)])
def test_a_slot_that_is_not_the_next_of_this_session_is_the_clients_fault(sequence: int, generation: int) -> None:
    policy = Affine()
    played = Played(policy)
    played.slots.write(sequence, generation=generation, q=1)
    with pytest.raises(RemoteProtocolError, match="expected observation 1 of generation 7"):
        played.session.answer(played.slots.observation_read, played.slots.action)
    assert policy.asked == []
    assert played.slots.answer == (0, 0, 0, 0, 0)


def test_a_repeated_slot_is_the_clients_fault() -> None:
    played = Played(Affine())
    played.ask()
    with pytest.raises(RemoteProtocolError, match="expected observation 2"):
        played.session.answer(played.slots.observation_read, played.slots.action)


def test_each_session_has_a_state_of_its_own() -> None:
    class Counts(Affine):
        def new_session(self, num_envs: int) -> list[int]:
            return [0] * num_envs

        def infer(self, session: list[int], observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray]:
            session[0] += 1
            return {"action": np.full((len(env_ids), self.horizon, 3), session[0], np.float32)}

    policy = Counts()
    first, second = Played(policy), Played(policy)
    for _ in range(3):
        first.ask()
    second.ask()
    assert first.slots.action.tensors["action"][0, 0, 0] == 3
    assert second.slots.action.tensors["action"][0, 0, 0] == 1


def test_a_policy_that_cannot_make_a_session_is_told_as_its_failure() -> None:
    class Refuses(Affine):
        def new_session(self, num_envs: int) -> None:
            raise MemoryError("too many")

    with pytest.raises(PolicyRaisedError, match="MemoryError: too many"):
        PolicySession(Refuses(), make_agreement(3))


OFFER = Offer([OBSERVATION, TensorSpec("extra", (2,), "uint8")], 3, 2)


def test_only_what_the_policy_asked_for_is_agreed() -> None:
    agreement = agree(Affine(), "affine", "digest", OFFER)
    assert [spec.name for spec in agreement.specs.observation] == ["q"]
    assert (agreement.policy, agreement.config_digest, agreement.num_envs, agreement.slots) == ("affine", "digest", 3, 2)


def test_generations_differ_and_are_never_zero() -> None:
    generations = {agree(Affine(), "affine", "", OFFER).generation for _ in range(20)}
    assert len(generations) == 20
    assert all(0 < generation < 2**63 for generation in generations)


@pytest.mark.parametrize("slots", [-1, 0, 1, MAX_SLOTS + 1])
def test_an_impossible_number_of_slots_is_refused(slots: int) -> None:
    with pytest.raises(SpecError, match="slots must lie between"):
        agree(Affine(), "affine", "", Offer([OBSERVATION], 3, slots))


def test_what_is_not_offered_is_refused_with_both_sides() -> None:
    offer = Offer([TensorSpec("q_pos", (3,), "float32")], 3, 2)
    with pytest.raises(SpecError, match=r"offered by the simulator and those wanted by the policy(.|\n)*missing"):
        agree(Affine(), "affine", "", offer)


def test_actions_that_the_simulator_does_not_take_are_refused_with_both_sides() -> None:
    offer = Offer([OBSERVATION], 3, 2, [TensorSpec("action", (4,), "float32")])
    with pytest.raises(SpecError, match=r"given by the policy and those taken by the simulator(.|\n)*\(3,\) float32 +\(4,\) float32 +differs"):
        agree(Affine(), "affine", "", offer)


def test_a_policy_that_says_no_specs_is_at_fault() -> None:
    class SaysNothing(Affine):
        def specs(self, offered: Mapping[str, TensorSpec]) -> Any:
            return None

    with pytest.raises(PolicyRaisedError, match=r"SaysNothing.specs must return PolicySpecs, it returned NoneType"):
        agree(SaysNothing(), "p", "", OFFER)


def test_a_policy_that_raises_while_choosing_is_told_with_its_traceback() -> None:
    class Picky(Affine):
        def specs(self, offered: Mapping[str, TensorSpec]) -> PolicySpecs:
            return PolicySpecs([offered["not there"]], [])

    with pytest.raises(PolicyRaisedError, match="KeyError: 'not there'") as error:
        agree(Picky(), "p", "", OFFER)
    assert "in specs" in error.value.remote_traceback


def test_a_spec_error_of_the_policys_own_stays_one() -> None:
    class Refuses(Affine):
        def specs(self, offered: Mapping[str, TensorSpec]) -> PolicySpecs:
            raise SpecError("two cameras, please")

    with pytest.raises(SpecError, match=r"^two cameras, please$"):
        agree(Refuses(), "p", "", OFFER)


def test_wrong_shapes_show_at_warm_up() -> None:
    with pytest.raises(PolicyRaisedError, match=r"returned 'action' as \(3, 3, 3\) float32; its specs promise \(3, 4, 3\)"):
        warm_up(sample.WrongAtWarmUp(), make_agreement(3))


def test_warming_up_uses_zeros_that_cannot_be_written_and_a_session_of_its_own() -> None:
    seen: list[Any] = []

    class Looks(Affine):
        def new_session(self, num_envs: int) -> object:
            seen.append(num_envs)
            return object()

        def warm_up(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> None:
            seen.append((list(env_ids), observation["q"].tolist(), observation["q"].flags.writeable))

    warm_up(Looks(), make_agreement(2))
    assert seen == [2, ([0, 1], [[0.0] * 3] * 2, False)]


def test_warming_up_shows_as_many_steps_as_the_policy_will_see() -> None:
    seen: list[tuple[int, ...]] = []

    class Looks(Affine):
        def warm_up(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> None:
            seen.append(observation["q"].shape)

    warm_up(Looks(), make_agreement(2, observation_steps=5))
    assert seen == [(2, 5, 3)]


def test_actions_are_checked_for_every_name_shape_and_dtype() -> None:
    specs = PolicySpecs([OBSERVATION], [TensorSpec("a", (2,), "float32"), TensorSpec("b", (), "int64")], 4)
    good = {"a": np.zeros((3, 4, 2), np.float32), "b": np.zeros((3, 4), np.int64)}
    assert set(ActionCheck(specs, 3).check(good)) == {"a", "b"}
    for wrong in ({**good, "c": good["a"]}, {"a": good["a"]}, {**good, "b": good["b"][:2]}, {**good, "b": good["b"].astype(np.int32)}):
        with pytest.raises(PolicyRaisedError):
            ActionCheck(specs, 3).check(wrong)


def test_an_error_of_this_library_out_of_a_policy_does_not_look_like_the_end_of_the_session() -> None:
    """A policy may itself be a client of another host; that other host's loss is the policy's failure, not ours."""

    class Proxy(Affine):
        def infer(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray]:
            raise ClosedError("the session with another host was closed")

    played = Played(Proxy())
    played.ask()
    assert isinstance(played.failure, PolicyRaisedError)
