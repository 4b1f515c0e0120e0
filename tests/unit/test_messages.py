"""Messages: what goes in comes out, and what is none is refused without running anything of it."""

from __future__ import annotations

import json
import pickle
from typing import get_args

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from shmbridge import errors, messages
from shmbridge.counters import RingStatistics, SessionStatistics
from shmbridge.errors import PolicyRaisedError, RemoteProtocolError, SharedMemoryFullError, ShmbridgeError, SpecError, TimedOutError
from shmbridge.layout import FAILURE_BYTES
from shmbridge.messages import (
    AnyMessage,
    Attached,
    ClientDescription,
    Close,
    Description,
    Failure,
    Hello,
    HostState,
    Ping,
    Query,
    SessionDescription,
    Status,
    Stop,
    Welcome,
    decode,
    decode_failure,
    encode,
    encode_failure,
    exception_from_failure,
    failure_from_exception,
    policy_raised,
)
from shmbridge.spec import TensorSpec

SPEC = TensorSpec("camera/rgb", (4, 5, 3), "uint8", "sRGB")
STATUS = Status(HostState.WARMING_UP, 1.5, "compiling")
RING = RingStatistics(2, 1, 0, 17, 1)
COUNTERS = SessionStatistics(17, 30, 2, 0.5)
SESSION = SessionDescription(99, [SPEC], [SPEC], 16, 3, 2, "00", "11", RING, RING)
BRIEF = ClientDescription("client 7", 1000, "idle", 10, 4096, 2.5, 30.1, COUNTERS)
DETAILED = msgspec.structs.replace(BRIEF, state="inferring", session=SESSION)
EXAMPLES: list[AnyMessage] = [
    Hello(2, "0.1.0", "glibc 2.36", "client 7 on sim", 10, 2, [SPEC], [SPEC], "my_policy", "abc"),
    Hello(2, "0.1.0", "glibc 2.36", "client 7 on sim", 10, 2, [SPEC]),
    STATUS,
    Welcome(99, "my_policy", "abc", [SPEC], [SPEC], 16, 3, 2, "00", "11", ["/a", "/b", "/c", "/d"]),
    Failure("SpecError", "they do not agree", "ValueError", "Traceback …"),
    Attached(),
    Ping(),
    Stop(),
    Query(),
    Query(details=True),
    Description("default", "0.1.0", 7, 1000, "my_policy", "abc", STATUS, 60.0, 3, [BRIEF, DETAILED]),
    Close("the host is stopping"),
    Close(),
]


def test_there_is_an_example_of_every_message() -> None:
    assert {type(message) for message in EXAMPLES} == set(get_args(AnyMessage))


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: AnyMessage) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_an_unknown_field_is_ignored_so_that_a_later_version_may_add_some(message: AnyMessage) -> None:
    raw = msgspec.msgpack.decode(encode(message))
    assert decode(msgspec.msgpack.encode({**raw, "from_the_future": 1})) == message


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_says_its_type_in_words(message: AnyMessage) -> None:
    assert msgspec.msgpack.decode(encode(message))["type"] == type(message).__name__.lower()


@pytest.mark.parametrize(
    "raw",
    [
        {"type": "unheard of"},
        {"no": "type"},
        {"type": "hello"},
        {"type": "status", "state": "DANCING", "seconds": 0.0},
        {"type": "close", "reason": 7},
        [],
        7,
        None,
        "hello",
    ],
)
def test_what_is_no_message_is_the_peers_fault(raw: object) -> None:
    with pytest.raises(RemoteProtocolError, match="no message of protocol"):
        decode(msgspec.msgpack.encode(raw))


@pytest.mark.parametrize("change", [{"name": "a b"}, {"shape": [0]}, {"shape": [-3]}, {"dtype": "object"}, {"shape": 7}, {"name": 3}])
def test_a_spec_that_is_none_is_refused_where_it_arrives(change: dict[str, object]) -> None:
    raw = msgspec.msgpack.decode(encode(EXAMPLES[0]))
    raw["observation"][0] |= change
    with pytest.raises(RemoteProtocolError):
        decode(msgspec.msgpack.encode(raw))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_message_or_the_peers_fault(data: bytes) -> None:
    try:
        assert isinstance(decode(data), get_args(AnyMessage))
    except RemoteProtocolError:
        pass


@given(st.sampled_from(EXAMPLES), st.data())
def test_a_damaged_message_is_a_message_or_the_peers_fault(message: AnyMessage, data: st.DataObject) -> None:
    damaged = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert isinstance(decode(bytes(damaged)), get_args(AnyMessage))
    except RemoteProtocolError:
        pass


def test_pickled_data_is_not_unpickled() -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return pytest.fail, ("unpickled",)

    with pytest.raises(RemoteProtocolError):
        decode(pickle.dumps(Trap()))


ALL_ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, ShmbridgeError)]


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_an_error_of_ours_crosses_as_itself(kind: type[ShmbridgeError]) -> None:
    again = exception_from_failure(failure_from_exception(kind("what happened")))
    assert type(again) is kind
    assert str(again) == "what happened"


def test_any_other_exception_crosses_as_the_policys_with_its_traceback() -> None:
    again = exception_from_failure(failure_from_exception(raised(KeyError("door"))))
    assert isinstance(again, PolicyRaisedError)
    assert again.error_type == "KeyError"
    assert again.remote_traceback.startswith("Traceback") and "in raised" in again.remote_traceback
    assert str(again).startswith("the policy raised KeyError: 'door'")
    assert str(again).count("Traceback") == 1


def test_what_our_own_errors_carry_crosses_with_them() -> None:
    full = exception_from_failure(failure_from_exception(SharedMemoryFullError("too little", needed=7, free=3)))
    assert isinstance(full, SharedMemoryFullError)
    assert (str(full), full.needed, full.free) == ("too little", 7, 3)
    told = policy_raised(raised(ValueError("no")))
    again = exception_from_failure(failure_from_exception(told))
    assert isinstance(again, PolicyRaisedError)
    assert (str(again), again.error_type, again.remote_traceback) == (str(told), told.error_type, told.remote_traceback)


def raised(error: Exception) -> Exception:
    """Return an exception that has a traceback."""
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.mark.parametrize("name", ["NoSuchError", "SystemExit", "KeyboardInterrupt", "annotations", ""])
def test_an_unknown_class_of_error_is_the_peers_fault_and_runs_nothing(name: str) -> None:
    assert type(exception_from_failure(Failure(name, "text"))) is RemoteProtocolError


def test_a_failure_fits_into_its_slot_whatever_the_policy_said() -> None:
    failure = Failure("PolicyRaisedError", "\0" * 10_000, "E" * 10_000, "".join(f"line {i}\n" for i in range(100_000)))
    data = encode_failure(failure)
    assert len(data) <= FAILURE_BYTES
    assert decode_failure(data).error == "PolicyRaisedError"


def test_a_long_traceback_loses_its_beginning_and_keeps_its_end() -> None:
    text = "".join(f'  File "policy.py", line {i}\n' for i in range(5000)) + "ValueError: five!"
    again = decode_failure(encode_failure(Failure("PolicyRaisedError", "the policy raised", "ValueError", text)))
    assert again.traceback.startswith("… ")
    assert again.traceback.endswith("ValueError: five!")
    assert len(again.traceback) > FAILURE_BYTES // 4


def test_a_failure_that_fits_is_not_shortened() -> None:
    failure = Failure("PolicyRaisedError", "text", "ValueError", "é" * 5000)
    assert decode_failure(encode_failure(failure)) == failure


@given(st.text(max_size=50), st.text(max_size=50))
def test_a_failure_comes_back_from_its_slot_padded_or_not(text: str, traceback: str) -> None:
    failure = Failure("SpecError", text, "", traceback)
    data = encode_failure(failure)
    assert decode_failure(data) == failure
    assert decode_failure(data + b" " * 3) == failure


def test_a_failure_with_text_that_is_no_unicode_can_be_told() -> None:
    """File names that are no UTF-8 come as lone surrogates, in the text of an OSError for example."""
    failure = failure_from_exception(ValueError("a file called \udcff"))
    assert "a file called" in decode_failure(encode_failure(failure)).text
    again = decode(encode(failure))
    assert isinstance(again, Failure)
    assert "a file called" in again.text


def test_an_exception_that_cannot_say_what_it_is_can_be_told() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert failure_from_exception(Mute()).error_type == "Mute"


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_a_failure_or_the_peers_fault(data: bytes) -> None:
    try:
        assert isinstance(decode_failure(data), Failure)
    except RemoteProtocolError:
        pass


def test_a_failure_can_be_read_with_any_json_reader() -> None:
    raw = json.loads(encode_failure(failure_from_exception(SpecError("they do not agree"))))
    assert raw["error"] == "SpecError"
    assert isinstance(exception_from_failure(Failure("TimedOutError", "late")), TimedOutError)


def test_details_are_given_only_if_asked_for() -> None:
    assert not Query().details
    (described,) = (client for message in EXAMPLES if isinstance(message, Description) for client in message.clients if client.session is not None)
    assert described.session == SESSION
    raw = msgspec.msgpack.decode(encode(Query()))
    del raw["details"]
    assert decode(msgspec.msgpack.encode(raw)) == Query()


def test_a_description_becomes_json_for_scripts() -> None:
    (message,) = (message for message in EXAMPLES if isinstance(message, Description))
    raw = json.loads(msgspec.json.encode(message))
    assert raw["clients"][1]["session"]["observation_ring"] == {"slots": 2, "free": 1, "full": 0, "moved": 17, "held": 1}
    assert raw["clients"][1]["counters"] == {"requests": 17, "rows": 30, "failures": 2, "infer_seconds": 0.5}


@pytest.mark.parametrize("field", ["uid", "state", "counters", "rate"])
def test_a_description_of_a_client_that_leaves_something_out_is_the_hosts_fault(field: str) -> None:
    (message,) = (message for message in EXAMPLES if isinstance(message, Description))
    raw = msgspec.msgpack.decode(encode(message))
    del raw["clients"][0][field]
    with pytest.raises(RemoteProtocolError, match=field):
        decode(msgspec.msgpack.encode(raw))


def test_the_protocol_is_the_documented_one() -> None:
    assert messages.PROTOCOL_VERSION == 2


def test_states_are_words_for_people() -> None:
    assert [state.value for state in messages.HostState] == ["LOADING", "WARMING_UP", "READY", "BUSY", "FAILED"]
