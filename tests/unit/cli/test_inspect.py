"""What ``inspect`` shows of a host's sessions, true and untrue ones."""

from __future__ import annotations

import json
import math
import os

import descriptions as make
import msgspec
import pytest

from shmbridge import serve
from shmbridge.cli import inspect
from shmbridge.connecting import connect
from shmbridge.counters import SessionStatistics
from shmbridge.errors import HostNotFoundError, RemoteProtocolError, ShmbridgeError, SpecError, TimedOutError
from shmbridge.memory.naming import DEFAULT_NAME
from shmbridge.messages import Failure, HostState, Query, Status, decode
from shmbridge.spec import TensorSpec
from shmbridge.testing import MarkingPolicy
from shmbridge.testing.fakes import MARK


def inspect_json(capsys, *words):
    status = inspect.main([*words, "--json"])
    out = capsys.readouterr().out
    assert out.isascii()
    return status, json.loads(out)


def words_of(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_a_session_is_shown_as_it_really_is(unique_name, capsys):
    with serve(MarkingPolicy(), f"shm://{unique_name}"), connect(f"shm://{unique_name}", observation_specs=[MARK], num_envs=3) as client:
        for _ in range(4):
            client.infer({"mark": [1.0, 2.0, 3.0]})
        status, found = inspect_json(capsys, unique_name)
    assert status == 0
    assert found["problems"] == []
    (seen,) = found["clients"]
    assert seen["problems"] == []
    assert seen["session"]["generation"] == f"{client.agreement.generation:x}"
    assert (seen["num_envs"], seen["counters"]["requests"]) == (3, 4)
    for name, layout in zip(("observation", "action"), client.agreement.layouts, strict=True):
        ring = seen["rings"][name]
        assert (ring["stride"], ring["segment_bytes"]) == (layout.stride, layout.segment_size(2))
        assert ring["digest"] == ring["digest_told"] == layout.digest
        assert ring["states"] == ["free", "free"]
        assert ring["counts"]["moved"] == 4
        offsets = {field["name"]: field["offset"] for field in ring["fields"]}
        assert {field.name: field.offset for field in layout.fields}.items() <= offsets.items()


def test_the_same_is_shown_to_people(unique_name, capsys):
    with serve(MarkingPolicy(), f"shm://{unique_name}"), connect(f"shm://{unique_name}", observation_specs=[MARK], num_envs=3) as client:
        client.infer({"mark": [1.0, 2.0, 3.0]})
        assert inspect.main([unique_name]) == 0
    text = words_of(capsys)
    for part in (
        f"host {unique_name}:",
        f"client {os.getpid()}",
        "1 observation answered",
        "3 environments; ",
        "observation ring: 2 slots",
        "mark",
        "(3,) ",
        "as computed here",
    ):
        assert part in text
    assert "slot 0 free, slot 1 free; 1 taken by the host so far" in text
    assert "CONTRADICTION" not in text
    assert ", READY up " in text


def test_a_host_is_named_by_its_address_too(unique_name, capsys):
    with make.answering(unique_name, make.description(unique_name)):
        status, found = inspect_json(capsys, f"shm://{unique_name}")
    assert (status, found["name"]) == (0, unique_name)


def test_a_state_that_passes_is_shown_with_its_seconds(unique_name, capsys):
    with make.answering(unique_name, make.description(unique_name, status=Status(HostState.LOADING, 35.0))):
        inspect.main([unique_name])
    assert "LOADING for 35 s" in words_of(capsys)


def test_a_host_without_clients_is_shown_without(unique_name, capsys):
    with make.answering(unique_name, make.description(unique_name)):
        assert inspect.main([unique_name]) == 0
    assert "0 of 4 clients" in words_of(capsys)


def test_it_asks_for_details(unique_name, capsys):
    with make.answering(unique_name, make.description(unique_name)) as heard:
        inspect.main([unique_name])
    assert decode(heard[0][4:]) == Query(details=True)


def test_clients_are_chosen_by_a_part_of_their_name(unique_name, capsys):
    told = make.description(unique_name, make.client("client 7 on here"), make.client("client 8 on there"))
    with make.answering(unique_name, told):
        _, found = inspect_json(capsys, unique_name, "--client", "on there")
        assert [client["client"] for client in found["clients"]] == ["client 8 on there"]
        with pytest.raises(SpecError, match="client 7 on here, client 8 on there"):
            inspect.main([unique_name, "--client", "on nowhere"])


def test_nobody_to_choose_from_is_said(unique_name):
    with make.answering(unique_name, make.description(unique_name)), pytest.raises(SpecError, match="it has no clients"):
        inspect.main([unique_name, "--client", "x"])


def test_a_client_that_is_attaching_has_no_details_yet(unique_name, capsys):
    with make.answering(unique_name, make.description(unique_name, make.client(state="attaching", session=None))):
        assert inspect.main([unique_name]) == 0
        assert "nothing of its tensors yet" in words_of(capsys)
        _, found = inspect_json(capsys, unique_name)
    assert (found["clients"][0]["session"], found["clients"][0]["rings"]) == (None, None)


def test_counts_that_moved_while_they_were_read_are_asked_for_again(unique_name, capsys):
    torn = make.description(unique_name, make.client(session=make.session(observation_ring=make.ring(free=2, full=1))))
    whole = make.description(unique_name, make.client())
    with make.answering(unique_name, torn, torn, whole) as heard:
        status, found = inspect_json(capsys, unique_name)
    assert (status, len(heard)) == (0, 3)
    assert found["clients"][0]["problems"] == []


def test_counts_that_never_add_up_are_a_contradiction_and_a_failure(unique_name, capsys):
    told = make.description(unique_name, make.client(session=make.session(observation_ring=make.ring(free=2, full=1))))
    with make.answering(unique_name, told):
        assert inspect.main([unique_name]) == 1
    text = words_of(capsys)
    assert "CONTRADICTION: observation ring: 2 free + 1 published + 0 held by the host are more than 2 slots" in text
    assert "slots unknown" in text


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "other"}, "it calls itself other"),
        ({"max_sessions": 0}, "it serves 1 client, but takes 0"),
    ],
)
def test_what_a_host_tells_wrongly_of_itself_is_a_contradiction(unique_name, capsys, changes, problem):
    with make.answering(unique_name, make.description(unique_name, make.client(), **changes)):
        status, found = inspect_json(capsys, unique_name)
    assert status == 1
    assert found["problems"][0].startswith(problem)


EVIL = "\x1b[2J\u202e\x9b31m\n\x07"


def test_nonsense_is_shown_as_such_and_harms_no_terminal(unique_name, capsys):
    session = make.session(
        generation=-5,
        horizon=1 << 62,
        observation_steps=-1,
        slots=-7,
        observation_digest=EVIL,
        action_digest=EVIL * 100,
        observation_ring=make.ring(1 << 62, free=-1),
        action_ring=make.ring(-1, held=1 << 62),
    )
    counters = SessionStatistics(5, -5, 1 << 62, -math.inf)
    evil = make.client(EVIL, state=EVIL, uid=-1, num_envs=-1, nbytes=-1, seconds=math.nan, rate=math.inf, counters=counters, session=session)
    told = make.description(EVIL, evil, policy=EVIL, config_digest=EVIL, version=EVIL, status=Status(HostState.BUSY, -1.0, EVIL), pid=-1, uid=-1)
    with make.answering(unique_name, told):
        assert inspect.main([unique_name]) == 1
        text = capsys.readouterr().out
        status, found = inspect_json(capsys, unique_name)
    assert not set(text) & set("\x1b\u202e\x9b\x07")
    assert "CONTRADICTION" in text
    assert status == 1
    assert found["clients"][0]["rings"]["observation"]["fields"] == []


def test_a_unit_that_would_move_the_cursor_is_escaped(unique_name, capsys):
    specs = [TensorSpec("q", (3,), "float32", unit="\x1b[2J")]
    with make.answering(unique_name, make.description(unique_name, make.client(session=make.session(observation=specs)))):
        assert inspect.main([unique_name]) == 1
    text = capsys.readouterr().out
    assert "\x1b" not in text and "\\x1b[2J" in text


def spoilt(name, **changes):
    """A description whose first client's session says something else, whatever that is."""
    data = msgspec.to_builtins(make.description(name, make.client()))
    data["clients"][0]["session"] |= changes
    return msgspec.msgpack.encode(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"observation": [{"name": "\x1b[2J", "shape": [1], "dtype": "uint8"}]},
        {"observation": [{"name": "q", "shape": [-1], "dtype": "uint8"}]},
        {"observation": [{"name": "q", "shape": [1] * 50, "dtype": "uint8"}]},
        {"observation": [{"name": "q", "shape": [1], "dtype": "object"}]},
        {"observation": "none"},
        {"slots": "two"},
        {"observation_ring": {}},
        {"generation": 1 << 64 - 1, "horizon": None},
    ],
)
def test_what_is_no_description_is_an_error_that_harms_no_terminal(unique_name, changes):
    with make.answering(unique_name, spoilt(unique_name, **changes)), pytest.raises(RemoteProtocolError) as error:
        inspect.main([unique_name])
    assert "\x1b" not in str(error.value)


def test_a_refusal_is_passed_on_line_by_line_without_harm(unique_name):
    refusal = Failure("HostBusyError", "first\nsecond \x1b[2J")
    with make.answering(unique_name, refusal), pytest.raises(ShmbridgeError) as error:
        inspect.main([unique_name])
    assert "\x1b" not in str(error.value)


def test_a_host_that_is_not_there_is_an_error(unique_name):
    with pytest.raises(HostNotFoundError, match=unique_name):
        inspect.main([unique_name])


def test_a_host_that_does_not_answer_is_an_error_in_time(unique_name, monkeypatch):
    with make.answering(unique_name, b"\x00" * 4), pytest.raises(ShmbridgeError):
        inspect.main([unique_name, "--timeout_ms", "50"])
    asked = []

    def refuse(name, timeout, *, details, shm_group):
        asked.append((name, timeout))
        raise TimedOutError("no answer")

    monkeypatch.setattr(inspect, "describe_host", refuse)
    with pytest.raises(TimedOutError, match="no answer"):
        inspect.main(["--timeout_ms", "50"])
    assert asked == [(DEFAULT_NAME, 0.05)]
