"""How observations get into slots: all checks first, then the copy, or in place."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from fakes import FakeConnection
from helpers import OBSERVATION, make_agreement

from shmbridge.arrays import NumpyArrays
from shmbridge.errors import LocalProtocolError, SpecError
from shmbridge.filling import Filler, LoanedSlot
from shmbridge.memory.waiting import Deadline
from shmbridge.spec import TensorSpec

SOON = Deadline(0.0)
SPECS = [OBSERVATION, TensorSpec("camera/rgb", (2, 2, 3), "uint8"), TensorSpec("task", (), "utf8[16]")]


def make_filler(num_envs: int = 2, *, batched: bool = True, steps: int = 1) -> tuple[Filler, FakeConnection]:
    connection = FakeConnection(make_agreement(num_envs, observation=SPECS, observation_steps=steps))
    offered = ["q", "camera/rgb", "task", "unused"]
    return Filler(connection, offered=offered, batched=batched, arrays=NumpyArrays()), connection


def observation(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "q": np.full((2, 3), 5, np.float32),
        "camera": {"rgb": np.full((2, 2, 2, 3), 7, np.uint8)},
        "task": ["open", "öffnen"],
    }
    return {**plain, **changes}


def test_nested_and_flat_observations_fill_the_slot_alike() -> None:
    for given in (observation(), {"q": observation()["q"], "camera/rgb": observation()["camera"]["rgb"], "task": ["open", "öffnen"]}):
        filler, _ = make_filler()
        slot = filler.fill(given, SOON)
        assert slot is not None
        assert np.all(slot.tensors["q"] == 5)
        assert np.all(slot.tensors["camera/rgb"] == 7)
        assert slot.tensors["task"].tolist() == [b"open", "öffnen".encode()]


def test_what_is_offered_but_not_wanted_may_be_given_and_is_ignored() -> None:
    filler, _ = make_filler()
    assert filler.fill(observation(unused=object()), SOON) is not None


def test_an_unknown_tensor_is_refused_with_the_nearest_name() -> None:
    filler, _ = make_filler()
    with pytest.raises(SpecError, match=r"'camera/rbg' was not offered when connecting; did you mean 'camera/rgb'\?"):
        filler.fill(observation(camera={"rbg": 1}), SOON)


def test_a_missing_tensor_is_refused_with_those_that_were_given() -> None:
    filler, _ = make_filler()
    given = observation()
    del given["q"]
    with pytest.raises(SpecError, match=r"'q' is missing, and the policy needs it; given were: camera/rgb, task"):
        filler.fill(given, SOON)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 3)),
        np.zeros((3, 3), np.float32),
        np.zeros((2, 4), np.float32),
        np.full((2, 3), np.nan, np.float32),
        [[0, 0, 0], [0, 0, 0]],
        None,
        "text",
    ],
)
def test_nothing_is_written_unless_everything_conforms(wrong: Any) -> None:
    filler, connection = make_filler()
    slot = connection.loan(SOON)
    assert slot is not None
    slot.tensors["camera/rgb"][...] = 99
    with pytest.raises(SpecError):
        filler.fill(observation(q=wrong), SOON)
    assert np.all(slot.tensors["camera/rgb"] == 99)


def test_without_a_free_slot_nothing_is_filled() -> None:
    filler, connection = make_filler()
    connection.lent = 0
    assert filler.fill(observation(), SOON) is None
    assert filler.loan(SOON) is None


def test_a_loaned_slot_is_the_memory_that_is_sent() -> None:
    filler, connection = make_filler()
    loaned = filler.loan(SOON)
    assert loaned is not None
    loaned["q"][...] = 3
    assert filler.fill(loaned, SOON) is connection.loan(SOON)
    slot = connection.loan(SOON)
    assert slot is not None and np.all(slot.tensors["q"] == 3)


def test_a_loaned_slot_offers_what_the_policy_asked_for_and_no_more() -> None:
    filler, _ = make_filler()
    loaned = filler.loan(SOON)
    assert loaned is not None
    assert list(loaned) == ["q", "camera/rgb", "task"]
    assert len(loaned) == 3
    assert {name: array.shape for name, array in loaned.items()} == {"q": (2, 3), "camera/rgb": (2, 2, 2, 3), "task": (2,)}
    with pytest.raises(KeyError):
        loaned["unused"]


def test_a_loaned_slot_without_a_batch_axis_has_none_and_writes_the_same_memory() -> None:
    filler, connection = make_filler(1, batched=False)
    loaned = filler.loan(SOON)
    assert loaned is not None
    assert {name: array.shape for name, array in loaned.items()} == {"q": (3,), "camera/rgb": (2, 2, 3), "task": ()}
    loaned["q"][1], loaned["task"][...] = 4, b"open"
    slot = connection.loan(SOON)
    assert slot is not None
    assert slot.tensors["q"].tolist() == [[0, 4, 0]]
    assert slot.tensors["task"].tolist() == [b"open"]


def test_an_observation_without_a_batch_axis_gets_one() -> None:
    filler, _ = make_filler(1, batched=False)
    slot = filler.fill({"q": np.array([1, 2, 3], np.float32), "camera": {"rgb": np.ones((2, 2, 3), np.uint8)}, "task": "open"}, SOON)
    assert slot is not None
    assert slot.tensors["q"].tolist() == [[1, 2, 3]]
    assert slot.tensors["task"].tolist() == [b"open"]


def test_nan_is_found_in_a_loaned_slot_and_the_slot_stays_lent() -> None:
    filler, _ = make_filler()
    loaned = filler.loan(SOON)
    assert loaned is not None
    loaned["q"][1, 1] = np.nan
    with pytest.raises(SpecError, match=r"'q': NaN in rows \[1\]"):
        filler.fill(loaned, SOON)
    loaned["q"][1, 1] = 0
    assert filler.fill(loaned, SOON) is not None


def test_a_slot_is_the_same_until_it_is_spent() -> None:
    filler, connection = make_filler()
    loaned = filler.loan(SOON)
    assert filler.loan(SOON) is loaned
    assert loaned is not None
    filler.fill(loaned, SOON)
    connection.publish(1)
    filler.spend(loaned)
    assert filler.loan(SOON) is not loaned


def test_a_spent_slot_can_neither_be_used_nor_sent() -> None:
    filler, _ = make_filler()
    loaned = filler.loan(SOON)
    assert loaned is not None
    filler.spend(loaned)
    for use in (lambda: loaned["q"], lambda: filler.fill(loaned, SOON), lambda: filler.spend(loaned)):
        with pytest.raises(LocalProtocolError, match="spent; loan another one"):
            use()


def test_sending_arrays_spends_the_slot_that_was_lent() -> None:
    filler, _ = make_filler()
    loaned = filler.loan(SOON)
    assert loaned is not None
    given = observation()
    filler.fill(given, SOON)
    filler.spend(given)
    with pytest.raises(LocalProtocolError):
        loaned["q"]


def test_a_slot_of_another_session_is_refused() -> None:
    filler, _ = make_filler()
    other, _ = make_filler()
    theirs = other.loan(SOON)
    assert isinstance(theirs, LoanedSlot)
    filler.loan(SOON)
    with pytest.raises(LocalProtocolError):
        filler.fill(theirs, SOON)


class Mine(np.ndarray):
    """A kind of array of somebody's own."""


@pytest.mark.parametrize(
    "value",
    [
        np.full((2, 3), 5, np.float32).view(Mine),
        np.full((4, 3), 5, np.float32)[::2],
        np.asfortranarray(np.full((2, 3), 5, np.float32)),
        np.broadcast_to(np.float32(5), (2, 3)),
        np.full((2, 3), 5, np.dtype("<f4")),
    ],
    ids=["subclass", "strided", "by columns", "broadcast", "little-endian"],
)
def test_any_array_of_the_right_shape_and_dtype_goes_in(value: np.ndarray) -> None:
    filler, _ = make_filler()
    slot = filler.fill(observation(q=value), SOON)
    assert slot is not None and slot.tensors["q"].tolist() == [[5] * 3] * 2


@pytest.mark.parametrize("value", [np.inf, -np.inf, 3e38])
def test_infinity_and_huge_numbers_are_no_nan(value: float) -> None:
    filler, _ = make_filler()
    given = np.full((2, 3), value, np.float32)
    slot = filler.fill(observation(q=given), SOON)
    assert slot is not None and np.array_equal(slot.tensors["q"], given)


def test_mappings_that_are_no_dicts_are_taken_too() -> None:
    filler, _ = make_filler()
    assert filler.fill(MappingProxyType(observation(unused=1)), SOON) is not None


def test_what_is_not_sent_is_spent_all_the_same() -> None:
    filler, _ = make_filler()
    loaned = filler.loan(SOON)
    assert loaned is not None
    filler.pass_over(loaned)
    for use in (lambda: loaned["q"], lambda: filler.pass_over(loaned), lambda: filler.fill(loaned, SOON)):
        with pytest.raises(LocalProtocolError, match="spent"):
            use()


def test_of_what_is_not_sent_only_the_names_are_looked_at() -> None:
    filler, _ = make_filler()
    filler.pass_over(observation(q="anything"))
    for wrong in (observation(typo=1), {}):
        with pytest.raises(SpecError):
            filler.pass_over(wrong)


def test_what_is_not_sent_needs_no_slot() -> None:
    for steps in (1, 2):
        filler, connection = make_filler(steps=steps)
        connection.lent = 0
        filler.pass_over(observation())


def test_a_stack_is_completed_in_the_slot_that_is_sent() -> None:
    filler, _ = make_filler(steps=2)
    for number in (1, 2):
        slot = filler.fill(observation(q=np.full((2, 3), number, np.float32)), SOON)
        filler.remember()
    assert slot is not None
    assert slot.tensors["q"][:, :, 0].tolist() == [[1, 2]] * 2
    assert slot.tensors["camera/rgb"].shape == (2, 2, 2, 2, 3)
    assert slot.tensors["task"].tolist() == [[b"open"] * 2, ["öffnen".encode()] * 2]


def test_a_loaned_slot_of_a_stack_is_its_newest_part() -> None:
    filler, connection = make_filler(steps=2)
    filler.fill(observation(), SOON)
    filler.remember()
    loaned = filler.loan(SOON)
    assert loaned is not None
    assert {name: array.shape for name, array in loaned.items()} == {"q": (2, 3), "camera/rgb": (2, 2, 2, 3), "task": (2,)}
    loaned["q"][...] = 9
    assert filler.fill(loaned, SOON) is connection.loan(SOON)
    slot = connection.loan(SOON)
    assert slot is not None and slot.tensors["q"][:, :, 0].tolist() == [[5, 9]] * 2
