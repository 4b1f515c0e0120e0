"""``shmbridge serve`` in this process: what it refuses, and that it ends when a client stops it."""

from __future__ import annotations

import signal
import threading

import pytest

from shmbridge.cli.serve import main
from shmbridge.connecting import connect, describe_host
from shmbridge.errors import PolicyError, SpecError
from shmbridge.testing import leftovers
from shmbridge.testing.fakes import MARK

POLICY = ["--policy_type", "shmbridge.testing:MarkingPolicy"]


@pytest.fixture(autouse=True)
def signals_as_before():
    """A command leaves signals ignored, because its process ends; this one does not."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    "flags",
    [["--host", "0.0.0.0"], ["--port", "5555"], ["--api_token", "very-secret"], ["--api_token_file", "/very-secret"], ["--insecure"]],
)
def test_flags_of_the_network_are_refused_by_name(flags, unique_name):
    with pytest.raises(SpecError, match=flags[0]) as refused:
        main([*POLICY, "--name", unique_name, *flags])
    assert "very-secret" not in str(refused.value)


def test_host_without_a_policy_is_refused(unique_name):
    with pytest.raises(SpecError, match="--policy_type"):
        main(["--name", unique_name])


@pytest.mark.parametrize("flag", ["--max_sessions", "--timeout_ms", "--idle_timeout_s"])
@pytest.mark.parametrize("value", ["0", "-1", "some"])
def test_numbers_that_cannot_be_are_wrong_calls_and_named(flag, value, unique_name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*POLICY, "--name", unique_name, flag, value])
    assert ended.value.code == 2
    assert flag in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--max_sessionz", "--nonsense"])
def test_check_ends_well_where_a_host_would_begin_and_serves_nothing(flag, unique_name, capsys):
    words = [*POLICY, "--name", unique_name]
    assert main([*words, "--check"]) == 0
    assert leftovers(unique_name) == []
    with pytest.raises(SystemExit) as ended:
        main([*words, flag, "3", "--check"])
    assert ended.value.code == 2
    assert flag in capsys.readouterr().err
    with pytest.raises(SpecError, match="cannot name a host"):
        main([*POLICY, "--name", "No/Name", "--check"])


def test_name_that_no_host_may_have_is_refused():
    with pytest.raises(SpecError, match="cannot name a host"):
        main([*POLICY, "--name", "No/Name"])


def test_host_stopped_by_a_client_ends_with_status_0_and_leaves_nothing(unique_name):
    served = []

    def use():
        with connect(f"shm://{unique_name}", observation_specs=[MARK], num_envs=1, start_timeout=20) as client:
            served.append(describe_host(unique_name))
            client.stop_host()

    thread = threading.Thread(target=use)
    thread.start()
    try:
        assert main([*POLICY, "--name", unique_name, "--max_sessions", "2"]) == 0
    finally:
        thread.join()
    assert served[0].policy == POLICY[1]
    assert leftovers(unique_name) == []


def test_policy_that_cannot_be_loaded_is_an_error_of_ours_and_leaves_nothing(unique_name):
    with pytest.raises(PolicyError, match="no weights"):
        main(["--name", unique_name, "--policy_type", "sample_policies:CannotLoad"])
    assert leftovers(unique_name) == []
