"""What the published checks let through, and what they do not."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import sample_policies as sample

import shmbridge
from shmbridge.errors import PolicyRaisedError, ShmbridgeError, SpecError
from shmbridge.spec import TensorSpec
from shmbridge.testing import MarkingPolicy, check_environment, check_policy
from shmbridge.testing.fakes import MARK

Q = TensorSpec("q", (3,), "float32")
POSITION = TensorSpec("position", (2,), "float32")
COUNT = TensorSpec("count", (), "int64")


class Point(shmbridge.Environment):
    """Moves a point; right in everything. Each subclass does one thing wrong."""

    def __init__(self, num_envs=3):
        super().__init__(num_envs=num_envs)
        self.position = np.zeros((num_envs, 2), np.float32)
        self.count = np.zeros(num_envs, np.int64)
        self.closed = 0

    @property
    def specs(self):
        return shmbridge.EnvironmentSpecs([POSITION, COUNT], [TensorSpec("action", (2,), "float32")])

    def reset(self, *, seed, options, out):
        chosen = np.flatnonzero(self.mask(options))
        for row in chosen:
            self.position[row] = self.start(seed[row])
        self.count[chosen] = 0
        self.write(chosen, out)
        return [{}] * self.num_envs

    def step(self, action, *, out):
        self.position += action["action"]
        self.count += 1
        self.write(range(self.num_envs), out)
        nobody = np.zeros(self.num_envs, bool)
        return shmbridge.Step(np.zeros(self.num_envs), nobody, nobody, [{}] * self.num_envs)

    def mask(self, options):
        return options.get("reset_mask", np.ones(self.num_envs, bool))

    def start(self, seed):
        return np.random.default_rng(seed).uniform(-1, 1, 2)

    def write(self, rows, out):
        for row in rows:
            if "position" in out:
                out["position"][row] = self.position[row]
            if "count" in out:
                out["count"][row] = self.count[row]

    def close(self):
        self.closed += 1


class WritesNothing(Point):
    def write(self, rows, out):
        pass


class WritesOneTensorOnly(Point):
    def write(self, rows, out):
        super().write(rows, {name: array for name, array in out.items() if name == "count"})


class LeavesOutARow(Point):
    def write(self, rows, out):
        super().write([row for row in rows if row != 1], out)


class WritesNothingWhenReset(Point):
    def reset(self, *, seed, options, out):
        return super().reset(seed=seed, options=options, out={})


class IgnoresMask(Point):
    def mask(self, options):
        return np.ones(self.num_envs, bool)


class IgnoresMaskWithFixedStart(IgnoresMask):
    """Nothing random in its start, so that a reset looks like the one before."""

    def start(self, seed):
        return (0.5, 0.5)


class WritesOtherRows(Point):
    """Leaves the others alone in the simulator, but not in what it is given."""

    def reset(self, *, seed, options, out):
        infos = super().reset(seed=seed, options=options, out=out)
        for array in out.values():
            array[~self.mask(options)] = 0
        return infos


class IgnoresSeeds(Point):
    def start(self, seed):
        return np.random.default_rng().uniform(-1, 1, 2)


class StepsAtRandom(Point):
    def step(self, action, *, out):
        self.position += np.random.default_rng().uniform(-1, 1, 2).astype(np.float32)
        return super().step(action, out=out)


class NeedsAllTensors(Point):
    """Fills a tensor only where it is given all of them."""

    def write(self, rows, out):
        if len(out) == 2:
            super().write(rows, out)
        else:
            for array in out.values():
                array[:] = 7


class OneInfoForAll(Point):
    def reset(self, *, seed, options, out):
        return super().reset(seed=seed, options=options, out=out)[:1]


class ScalarReward(Point):
    def step(self, action, *, out):
        return super().step(action, out=out)._replace(reward=np.float64(0))


class OneFlagForAll(Point):
    def step(self, action, *, out):
        return super().step(action, out=out)._replace(terminated=np.zeros(1, bool))


class MetricsOfText(Point):
    def episode_metrics(self, info):
        return {"success_rate": "yes"}


def test_environment_without_fault_passes_and_is_closed_twice():
    environment = Point()
    check_environment(environment)
    assert environment.closed == 2


@pytest.mark.parametrize("num_envs", [1, 2])
def test_environment_without_fault_passes_whatever_the_number_of_copies(num_envs):
    check_environment(Point(num_envs), steps=5, seed=11)


@pytest.mark.parametrize(
    "faulty",
    [
        WritesNothing,
        WritesOneTensorOnly,
        LeavesOutARow,
        WritesNothingWhenReset,
        IgnoresMask,
        IgnoresMaskWithFixedStart,
        WritesOtherRows,
        IgnoresSeeds,
        StepsAtRandom,
        NeedsAllTensors,
        OneInfoForAll,
        ScalarReward,
        OneFlagForAll,
        MetricsOfText,
    ],
)
def test_environment_with_one_fault_fails_with_a_sentence_and_is_closed(faulty):
    environment = faulty()
    with pytest.raises(AssertionError, match=r"\w+ \w+ \w+"):
        check_environment(environment)
    assert environment.closed == 2


class Counting(sample.Affine):
    """Adds how often it was asked: kept per session."""

    def new_session(self, num_envs):
        return np.zeros(num_envs, np.float32)

    def infer(self, session, observation, env_ids):
        session[env_ids] += 1
        return {"action": super().infer(session, observation, env_ids)["action"] + session[env_ids, None, None]}


class SharesState(Counting):
    """The same, but kept on the policy."""

    def __init__(self, config=None):
        super().__init__(config)
        self.shared = {}

    def new_session(self, num_envs):
        return self.shared.setdefault(num_envs, super().new_session(num_envs))


class ActsAtRandom(sample.Affine):
    numbers = itertools.count()

    def infer(self, session, observation, env_ids):
        return {"action": super().infer(session, observation, env_ids)["action"] + np.float32(next(self.numbers))}


class AnswersAllRows(sample.Affine):
    """Gives a row for every environment, whoever was asked for."""

    def infer(self, session, observation, env_ids):
        return {"action": np.zeros((2, self.horizon, 3), np.float32)}


def test_policies_without_fault_pass():
    check_policy(sample.Affine, [Q])
    check_policy(Counting, [Q, MARK], num_envs=3)
    check_policy(MarkingPolicy, [MARK])


class Stacked(sample.Affine):
    """Adds up what it saw over three steps."""

    def specs(self, offered):
        return dataclasses.replace(super().specs(offered), observation_steps=3)

    def infer(self, session, observation, env_ids):
        return {"action": np.repeat(observation["q"].sum(1, dtype=np.float32)[:, None], self.horizon, axis=1)}


class ForgetsTheSteps(Stacked):
    """Asks for several steps, and reads the observation as if there were one."""

    def infer(self, session, observation, env_ids):
        return sample.Affine.infer(self, session, observation, env_ids)


class Obeys(sample.Affine):
    """Adds the length of its instruction, kept per session."""

    def new_session(self, num_envs):
        return {"text": ""}

    def instruct(self, session, env_ids, task):
        session["text"] = task[0] + "!" * int(task[0][-1])

    def infer(self, session, observation, env_ids):
        return {"action": super().infer(session, observation, env_ids)["action"] + np.float32(len(session["text"]))}


class ObeysAnyone(Obeys):
    """The same, but kept on the policy."""

    def __init__(self, config=None):
        super().__init__(config)
        self.shared = {"text": ""}

    def new_session(self, num_envs):
        self.shared["text"] = ""
        return self.shared


class FailsWhenInstructed(sample.Affine):
    def instruct(self, session, env_ids, task):
        raise KeyError(task[0])


class FailsWhenResetInPart(sample.Affine):
    def reset(self, session, env_ids, task):
        if len(env_ids) == 1:
            raise NotImplementedError("all or none")


def test_policies_that_see_several_steps_pass():
    check_policy(Stacked, [Q])
    check_policy(sample.Remembering, [Q, MARK], num_envs=3)
    check_policy(lambda: MarkingPolicy(observation_steps=2), [MARK])


def test_policy_that_forgets_the_axis_of_the_steps_fails():
    with pytest.raises(PolicyRaisedError, match="could not be broadcast"):
        check_policy(ForgetsTheSteps, [Q])


def test_policies_that_take_instructions_pass_as_those_that_refuse_them():
    check_policy(sample.Instructed, [Q])
    check_policy(Obeys, [Q])


def test_policy_that_shares_instructions_between_sessions_fails():
    with pytest.raises(AssertionError, match="interleaved"):
        check_policy(ObeysAnyone, [Q])


def test_policy_that_fails_when_instructed_is_told_how_to_refuse():
    with pytest.raises(AssertionError, match=r"refuse it by raising shmbridge.PolicyError; it raised KeyError"):
        check_policy(FailsWhenInstructed, [Q])


def test_policy_that_cannot_begin_an_episode_in_one_environment_fails():
    with pytest.raises(PolicyRaisedError, match="all or none"):
        check_policy(FailsWhenResetInPart, [Q])


def test_policy_that_acts_differently_in_company_fails():
    with pytest.raises(AssertionError, match="interleaved"):
        check_policy(SharesState, [Q])


def test_policy_that_acts_at_random_fails_and_is_told_so():
    with pytest.raises(AssertionError, match="seed what is random"):
        check_policy(ActsAtRandom, [Q])


def test_policy_that_ignores_which_environments_are_asked_for_fails():
    with pytest.raises(AssertionError, match="one environment"):
        check_policy(AnswersAllRows, [Q])


@pytest.mark.parametrize("command", [sample.WRONG_SHAPE, sample.WRONG_NAME, sample.WRONG_DTYPE, sample.NAN, sample.NO_DICT, sample.KEEP_VIEW, sample.WRITE])
def test_policy_that_breaks_its_promises_fails(command):
    class Faulty(sample.Commanded):
        def infer(self, session, observation, env_ids):
            return self._obey(command, observation, dict(super().infer(session, np_positive(observation), env_ids)))

    with pytest.raises(PolicyRaisedError):
        check_policy(Faulty, [Q])


def np_positive(observation):
    """Return observations that command nothing."""
    return {name: np.abs(array) for name, array in observation.items()}


def test_policy_that_needs_what_is_not_offered_fails():
    with pytest.raises(SpecError, match="q"):
        check_policy(sample.Affine, [MARK])


def test_policy_is_closed_as_often_as_it_was_made():
    made = []

    def make_policy():
        made.append(sample.Affine())
        return made[-1]

    check_policy(make_policy, [Q])
    assert [policy.closed for policy in made] == [1] * len(made)
    assert made


def test_single_environment_is_too_few_to_check_a_policy():
    with pytest.raises((AssertionError, ShmbridgeError), match="two environments"):
        check_policy(sample.Affine, [Q], num_envs=1)
