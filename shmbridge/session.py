"""One client's use of a policy: what is agreed at the start, and how each observation is answered.

Hosts and local deployments run this very code.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shmbridge.errors import PolicyError, PolicyRaisedError, RemoteProtocolError, SpecError
from shmbridge.layout import ActionHeader, ObservationHeader, Outcome, Slot
from shmbridge.messages import MAX_SLOTS, encode_failure, failure_from_exception, policy_raised, words_of
from shmbridge.policy import Policy, PolicySpecs
from shmbridge.spec import TensorSpec, check_agreement, decode_text, describe, refuse_nan
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
        zeros = {spec.name: _read_only(spec.generate(agreement.num_envs)) for spec in agreement.specs.observation}
        return policy.warm_up(session, zeros, list(rows))

    answer = run_policy_code(once)
    if answer is not None:
        check_actions(answer, agreement.specs, agreement.num_envs)


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


def check_actions(answer: Mapping[str, Any], specs: PolicySpecs, rows: int) -> dict[str, np.ndarray]:
    """Return what a policy gave as arrays, ``(rows, horizon, *spec.shape)`` each.

    Raises:
        PolicyRaisedError: A tensor is missing, unknown, of another shape or dtype, or holds NaN.
    """
    names = [spec.name for spec in specs.action]
    if not isinstance(answer, Mapping) or set(answer) != set(names):
        found = sorted(answer) if isinstance(answer, Mapping) else type(answer).__name__
        raise PolicyRaisedError(f"the policy must return a dict of {sorted(names)}, it returned {found}")
    return {spec.name: _check_action(answer[spec.name], spec, (rows, specs.horizon, *spec.shape)) for spec in specs.action}


def _check_action(value: Any, spec: TensorSpec, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.asarray(value)
    except Exception as error:  # whatever the policy returned decides what this raises
        raise PolicyRaisedError(f"the policy returned {spec.name!r} as something that is no numpy array: {words_of(error)}") from None
    if array.shape != shape or array.dtype != spec.storage:
        expected, found = describe(shape, str(spec.storage)), describe(array.shape, str(array.dtype))
        raise PolicyRaisedError(f"the policy returned {spec.name!r} as {found}; its specs promise {expected} (environments, horizon, …)")
    if spec.is_floating:
        try:
            refuse_nan(array, f"the policy returned {spec.name!r}")
        except SpecError as error:
            raise PolicyRaisedError(str(error)) from None
    return array


class PolicySession:
    """The policy's state for one client, and the numbers that keep answers and observations together.

    Attributes:
        agreement: What was agreed.
        sequence: Number of the last observation that was begun.
    """

    def __init__(self, policy: Policy, agreement: Agreement) -> None:
        """Make the client's state.

        Raises:
            PolicyRaisedError: ``new_session`` raised.
        """
        self.agreement = agreement
        self.sequence = 0
        self._policy = policy
        self._state = run_policy_code(lambda: policy.new_session(agreement.num_envs))
        self._resets: dict[int, str] = {}

    def answer(self, observation: Slot, action: Slot) -> None:
        """Read an observation slot and write the action slot that answers it, with the policy's failure if it fails.

        Raises:
            RemoteProtocolError: The slot is not the next one of this session. Nothing was written.
        """
        header = self._check_header(observation.read_header())
        started = time.perf_counter_ns()
        outcome = Outcome.ANSWERED
        try:
            self._apply_resets(observation, header)
            self._infer(observation, action, header)
        except Exception as error:  # the policy may raise anything; its client is told, and may go on
            ours = error if isinstance(error, PolicyError) else policy_raised(error)
            action.words["@failure"][...] = encode_failure(failure_from_exception(ours))
            outcome = Outcome.FAILED
        np.copyto(action.words["@episodes"], observation.words["@episodes"])
        action.write_header(ActionHeader(header.generation, header.sequence, outcome, time.perf_counter_ns() - started))

    def _check_header(self, header: ObservationHeader) -> ObservationHeader:
        if header.generation != self.agreement.generation or header.sequence != self.sequence + 1:
            expected = f"observation {self.sequence + 1} of generation {self.agreement.generation:x}"
            raise RemoteProtocolError(f"expected {expected}, found {header.sequence} of {header.generation:x}")
        self.sequence = header.sequence
        return header

    def _apply_resets(self, observation: Slot, header: ObservationHeader) -> None:
        if header.has_resets:
            begun = np.flatnonzero(observation.words["@resets"])
            self._resets.update(zip(begun.tolist(), decode_text(observation.words["@tasks"][begun]).tolist(), strict=True))
        if self._resets:
            # Kept until the policy took them: if it raises here, the next observation brings them again.
            env_ids = sorted(self._resets)
            self._policy.reset(self._state, env_ids, [self._resets[env_id] for env_id in env_ids])
            self._resets.clear()

    def _infer(self, observation: Slot, action: Slot, header: ObservationHeader) -> None:
        rows = range(self.agreement.num_envs) if header.all_rows else np.flatnonzero(observation.words["@rows"]).tolist()
        kept_before = _references(observation)
        place = slice(None) if header.all_rows else rows
        _write(action, place, self._run(observation.tensors, list(rows), copy=not header.all_rows))
        _refuse_kept_views(observation, kept_before)

    def _run(self, tensors: Mapping[str, np.ndarray], env_ids: list[int], *, copy: bool) -> dict[str, np.ndarray]:
        inputs = {name: _read_only(array[env_ids]) if copy else array for name, array in tensors.items()}
        return check_actions(self._policy.infer(self._state, inputs, env_ids), self.agreement.specs, len(env_ids))


def _write(action: Slot, place: Any, chunks: Mapping[str, np.ndarray]) -> None:
    # A function of its own, so that no variable of ours still holds a chunk, which may be a view, when references are counted.
    for name, chunk in chunks.items():
        action.tensors[name][place] = chunk
    action.words["@rows"][:] = 0
    action.words["@rows"][place] = 1


def _references(slot: Slot) -> list[int]:
    """Count who holds each tensor of a slot: the array itself, or a view of it, which holds its base."""
    return [sys.getrefcount(array) + sys.getrefcount(array.base) for array in slot.tensors.values()]


def _refuse_kept_views(slot: Slot, before: list[int]) -> None:
    for name, old, new in zip(slot.tensors, before, _references(slot), strict=True):
        if new > old:
            text = f"the policy kept a view of {name!r} after infer returned; that memory is about to be written again: keep a copy ({name!r}.copy())"
            raise PolicyRaisedError(text)


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
