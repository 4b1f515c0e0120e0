"""One client's use of a policy: what is agreed at the start, and how each observation is answered.

Hosts and local deployments run this very code.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from sys import getrefcount
from typing import Any

import numpy as np

from shmbridge.counters import SessionStatistics
from shmbridge.errors import PolicyError, PolicyRaisedError, RemoteProtocolError, SpecError
from shmbridge.layout import Change, Outcome, Slot
from shmbridge.messages import MAX_SLOTS, encode_failure, failure_from_exception, policy_raised, words_of
from shmbridge.policy import Policy, PolicySpecs
from shmbridge.spec import TensorSpec, check_agreement, conformity, decode_text, describe, refuse_nan
from shmbridge.tasks import TaskChanges
from shmbridge.transport.base import Agreement

OFFERED = "offered by the simulator"
"""Head of the column that shows the simulator's tensors in a refusal."""


@dataclass(frozen=True)
class Offer:
    """What a simulator brings to the handshake. ``action`` is what it takes; None means anything."""

    observation: Sequence[TensorSpec]
    num_envs: int
    slots: int
    action: Sequence[TensorSpec] | None = None


def agree(policy: Policy, policy_name: str, config_digest: str, offer: Offer) -> Agreement:
    """Let the policy pick its tensors and settle everything else.

    Raises:
        SpecError: The two sides do not fit; the text shows both.
        PolicyRaisedError: The policy's own code raised.
    """
    if not 2 <= offer.slots <= MAX_SLOTS:
        raise SpecError(f"slots must lie between 2 and {MAX_SLOTS}, not {offer.slots}")
    specs = run_policy_code(lambda: policy.specs({spec.name: spec for spec in offer.observation}))
    if not isinstance(specs, PolicySpecs):
        raise PolicyRaisedError(f"{type(policy).__name__}.specs must return PolicySpecs, it returned {type(specs).__name__}")
    check_agreement(offer.observation, specs.observation, left=OFFERED, right="wanted by the policy")
    if offer.action is not None:
        check_agreement(specs.action, offer.action, left="given by the policy", right="taken by the simulator")
    generation = secrets.randbits(63) | 1  # never 0, which fresh memory holds
    return Agreement(generation, policy_name, config_digest, specs, offer.num_envs, offer.slots)


def warm_up(policy: Policy, agreement: Agreement) -> None:
    """Run the policy once on zeros, in a session of its own, so that slow first times and wrong shapes show before step one.

    Raises:
        PolicyRaisedError: It raised, or what it returned does not match its specs.
    """
    rows = range(agreement.num_envs)

    def once() -> Mapping[str, Any] | None:
        session = policy.new_session(agreement.num_envs)
        policy.reset(session, list(rows), [""] * agreement.num_envs)
        batch = agreement.specs.observation_batch(agreement.num_envs)
        zeros = {spec.name: _read_only(np.zeros((*batch, *spec.shape), spec.storage)) for spec in agreement.specs.observation}
        return policy.warm_up(session, zeros, list(rows))

    answer = run_policy_code(once)
    if answer is not None:
        ActionCheck(agreement.specs, agreement.num_envs).check(answer)


def run_policy_code(call: Callable[[], Any]) -> Any:
    """Call the policy; what it raises becomes PolicyRaisedError with its traceback.

    SpecError and PolicyError stay what they are: a policy may refuse. Any other of our errors would tell the client something about its own
    session that is not so.
    """
    try:
        return call()
    except (SpecError, PolicyError):
        raise
    except Exception as error:
        raise policy_raised(error) from None


class ActionCheck:
    """Whether what a policy gives is what its specs promise, for one number of rows."""

    def __init__(self, specs: PolicySpecs, rows: int) -> None:
        self._specs = {spec.name: spec for spec in specs.action}
        self._shapes = {spec.name: (rows, specs.horizon, *spec.shape) for spec in specs.action}
        self._conforms = {name: conformity(shape, self._specs[name].storage) for name, shape in self._shapes.items()}

    def check(self, answer: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the actions as arrays, ``(rows, horizon, *spec.shape)`` each.

        Raises:
            PolicyRaisedError: A tensor is missing, unknown, of another shape or dtype, or holds NaN.
        """
        actions: dict[str, np.ndarray] = {}
        try:
            for name, conforms in self._conforms.items():
                value = answer[name]
                actions[name] = value if conforms(value) else self._look_closer(name, value)
        except (KeyError, TypeError, IndexError):  # one is missing, or it is no mapping at all
            raise self._wrong_names(answer) from None
        if len(answer) != len(actions):
            raise self._wrong_names(answer)
        return actions

    def _wrong_names(self, answer: object) -> PolicyRaisedError:
        found = sorted(map(str, answer)) if isinstance(answer, Mapping) else type(answer).__name__
        return PolicyRaisedError(f"the policy must return a dict of {sorted(self._specs)}, it returned {found}")

    def _look_closer(self, name: str, value: Any) -> np.ndarray:
        spec, shape = self._specs[name], self._shapes[name]
        try:
            array = np.asarray(value)
        except Exception as error:  # whatever the policy returned decides what this raises
            raise PolicyRaisedError(f"the policy returned {name!r} as something that is no numpy array: {words_of(error)}") from None
        if array.shape != shape or array.dtype != spec.storage:
            expected, found = describe(shape, str(spec.storage)), describe(array.shape, str(array.dtype))
            raise PolicyRaisedError(f"the policy returned {name!r} as {found}; its specs promise {expected} (environments, horizon, …)")
        if spec.is_floating:
            try:
                refuse_nan(array, "the policy returned", name)
            except SpecError as error:
                raise PolicyRaisedError(str(error)) from None
        return array


class PolicySession:
    """The policy's state for one client, and the numbers that keep answers and observations together.

    Attributes:
        agreement: What was agreed.
        sequence: Number of the last observation that was begun.
        rows: Environments inferred, summed over the observations.
        failures: Observations that were answered by an exception of the policy.
        infer_ns: Nanoseconds spent in the policy.
    """

    def __init__(self, policy: Policy, agreement: Agreement) -> None:
        """Make the client's state.

        Raises:
            PolicyRaisedError: ``new_session`` raised.
        """
        self.agreement = agreement
        self.sequence = self.rows = self.failures = self.infer_ns = 0
        self._policy = policy
        self._state = run_policy_code(lambda: policy.new_session(agreement.num_envs))
        self._everyone = list(range(agreement.num_envs))
        self._whole = ActionCheck(agreement.specs, agreement.num_envs)
        self._changes = TaskChanges()
        self._episodes = np.zeros(agreement.num_envs, np.uint64)

    def answer(self, observation: Slot, action: Slot) -> None:
        """Read an observation slot and write the action slot that answers it, with the policy's failure if it fails.

        Raises:
            RemoteProtocolError: The slot is not the next one of this session. Nothing was written.
        """
        generation, sequence, has_changes, all_rows = observation.read_words()
        if generation != self.agreement.generation or sequence != self.sequence + 1:
            raise self._wrong_number(generation, sequence)
        self.sequence = sequence
        started = time.perf_counter_ns()
        outcome = Outcome.ANSWERED
        try:
            if has_changes:
                self._take_changes(observation)
            if self._changes.waiting:
                self._tell_changes()
            self._infer(observation, action, all_rows)
        except Exception as error:  # the policy may raise anything; its client is told, and may go on
            ours = error if isinstance(error, PolicyError) else policy_raised(error)
            action.words["@failure"][...] = encode_failure(failure_from_exception(ours))
            outcome = Outcome.FAILED
            self.failures += 1
        if action.episodes_held is not self._episodes:
            np.copyto(action.words["@episodes"], self._episodes)
            action.episodes_held = self._episodes
        infer_ns = time.perf_counter_ns() - started
        self.infer_ns += infer_ns
        # Plain numbers in the order of ActionHeader.
        action.write_words(generation, sequence, outcome, infer_ns, all_rows)

    def counters(self) -> SessionStatistics:
        """Return what was counted so far. Any thread may call it."""
        return SessionStatistics(self.sequence, self.rows, self.failures, self.infer_ns / 1e9)

    def _wrong_number(self, generation: int, sequence: int) -> RemoteProtocolError:
        expected = f"observation {self.sequence + 1} of generation {self.agreement.generation:x}"
        return RemoteProtocolError(f"expected {expected}, found {sequence} of {generation:x}")

    def _take_changes(self, observation: Slot) -> None:
        kinds, tasks = observation.words["@changes"], observation.words["@tasks"]
        self._changes.begin(_told(kinds == Change.EPISODE, tasks))
        self._changes.instruct(_told(kinds == Change.INSTRUCTION, tasks))
        self._episodes = observation.words["@episodes"].copy()

    def _tell_changes(self) -> None:
        # Kept until the policy took them: if it raises here, the next observation brings them again.
        for tell, told in ((self._policy.reset, self._changes.episodes), (self._policy.instruct, self._changes.instructions)):
            if told:
                env_ids = sorted(told)
                tell(self._state, env_ids, [told[env_id] for env_id in env_ids])
                told.clear()
        self._changes.clear()

    def _infer(self, observation: Slot, action: Slot, all_rows: int) -> None:
        before = [*map(getrefcount, observation.referents)]
        if all_rows:
            _write(action, ..., self._whole.check(self._policy.infer(self._state, dict(observation.tensors), self._everyone.copy())))
            self.rows += self.agreement.num_envs
        else:
            self._infer_some(observation, action, np.flatnonzero(observation.words["@rows"]).tolist())
        if [*map(getrefcount, observation.referents)] != before:
            _refuse_kept_views(observation, before)

    def _infer_some(self, observation: Slot, action: Slot, env_ids: list[int]) -> None:
        inputs = {name: _read_only(array[env_ids]) for name, array in observation.tensors.items()}
        check, answered = ActionCheck(self.agreement.specs, len(env_ids)), action.words["@rows"]
        _write(action, env_ids, check.check(self._policy.infer(self._state, inputs, env_ids.copy())))  # a copy, because it is the policy's then
        answered[:] = 0
        answered[env_ids] = 1
        self.rows += len(env_ids)


def _told(chosen: np.ndarray, tasks: np.ndarray) -> dict[int, str]:
    env_ids = np.flatnonzero(chosen)
    return dict(zip(env_ids.tolist(), decode_text(tasks[env_ids]).tolist(), strict=True))


def _write(action: Slot, place: Any, chunks: Mapping[str, np.ndarray]) -> None:
    # A function of its own, so that no variable of ours still holds a chunk, which may be a view, when references are counted.
    for name, chunk in chunks.items():
        action.tensors[name][place] = chunk


def _refuse_kept_views(slot: Slot, before: Sequence[int]) -> None:
    """Raise if somebody holds a tensor of a slot, or a view of it, who did not before."""
    grown = [getrefcount(part) > old for part, old in zip(slot.referents, before, strict=True)]
    for number, name in enumerate(slot.tensors):
        if grown[2 * number] or grown[2 * number + 1]:
            text = f"the policy kept a view of {name!r} after infer returned; that memory is about to be written again: keep a copy ({name!r}.copy())"
            raise PolicyRaisedError(text)


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
