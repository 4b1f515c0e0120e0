"""Errors reach other processes whole, and are what a caller would catch without knowing this library."""

from __future__ import annotations

import copy
import pickle

import pytest

from shmbridge import errors
from shmbridge.errors import PeerLostError, PolicyRaisedError, SharedMemoryFullError, ShmbridgeError

ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, ShmbridgeError)]
EXAMPLES = [
    *(kind("what happened") for kind in ALL),
    SharedMemoryFullError("full", needed=10, free=3),
    PeerLostError("gone", peer="host 'a'", phase="waiting for an action", sequence=12),
    PolicyRaisedError("raised", error_type="ValueError", remote_traceback="Traceback …"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling_with_its_attributes(error: ShmbridgeError) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_copying_with_its_attributes(error: ShmbridgeError) -> None:
    again = copy.deepcopy(error)
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("kind", ALL)
def test_an_error_says_its_message_and_nothing_else(kind: type[ShmbridgeError]) -> None:
    assert str(kind("what happened")) == "what happened"


@pytest.mark.parametrize("kind", ALL)
def test_an_error_can_be_made_without_a_message(kind: type[ShmbridgeError]) -> None:
    assert str(kind()) == ""


@pytest.mark.parametrize("kind", ALL)
def test_an_error_is_documented(kind: type[ShmbridgeError]) -> None:
    assert kind.__doc__ and kind.__doc__ != ShmbridgeError.__base__.__doc__  # type: ignore[union-attr]  # it has a base


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.SpecError, ValueError),
        (errors.SharedMemoryFullError, OSError),
        (errors.HostNotFoundError, FileNotFoundError),
        (errors.HostExistsError, FileExistsError),
        (errors.TimedOutError, TimeoutError),
        (errors.UnknownPolicyError, LookupError),
    ],
)
def test_an_error_is_caught_as_the_builtin_a_caller_expects(kind: type[ShmbridgeError], builtin: type[Exception]) -> None:
    with pytest.raises(builtin):
        raise kind("what happened")


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (errors.LayoutMismatchError, errors.SegmentError),
        (errors.SegmentNotReadyError, errors.SegmentError),
        (errors.SharedMemoryFullError, errors.SegmentError),
        (errors.LocalProtocolError, errors.ProtocolError),
        (errors.RemoteProtocolError, errors.ProtocolError),
        (errors.UnknownPolicyError, errors.PolicyError),
        (errors.PolicyRaisedError, errors.PolicyError),
    ],
)
def test_families_of_errors_are_caught_together(kind: type[ShmbridgeError], base: type[ShmbridgeError]) -> None:
    assert issubclass(kind, base)


def test_every_error_is_offered_by_the_package() -> None:
    import shmbridge  # the package itself is looked at here

    assert {kind.__name__ for kind in ALL} <= set(shmbridge.__all__)
