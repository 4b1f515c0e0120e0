"""Starting programs, passing on what they print, and ending them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from helpers import eventually, open_descriptors

from shmbridge.cli.launch_file import Program
from shmbridge.cli.launch_keeper import Ending
from shmbridge.cli.launch_programs import ENDINGS, Programs, Signals, environment_of
from shmbridge.errors import SpecError

STUBBORN = """
import signal, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
print("up", flush=True)
time.sleep(1000)
"""


def program(source="pass", *, label="it", serves=None, venv=None, own=False, folder=Path("/"), variables=None, argv=None):
    python = venv / "bin" / "python" if venv else Path(sys.executable)
    return Program(label, argv or (str(python), "-c", source), (), python, venv, own, folder, variables or {}, serves)


@pytest.fixture
def signals():
    with Signals() as found:
        yield found


@pytest.fixture
def programs(signals):
    with Programs(["it", "other"], signals) as found:
        yield found


def pump_until(programs, condition):
    def look():
        programs.pump(0.01)
        return condition()

    eventually(look)


def test_program_in_our_environment_gets_it_all_and_is_not_buffered():
    base = {"PYTHONPATH": "/ours", "VIRTUAL_ENV": "/venv", "PATH": "/bin"}
    assert environment_of(program(), base) == base | {"PYTHONUNBUFFERED": "1"}


def test_program_with_an_interpreter_of_its_own_gets_nothing_that_mixes_packages():
    base = {"PYTHONPATH": "/ours", "PYTHONHOME": "/home", "VIRTUAL_ENV": "/venv", "PATH": "/bin", "HOME": "/root"}
    assert environment_of(program(own=True), base) == {"PATH": "/bin", "HOME": "/root", "PYTHONUNBUFFERED": "1"}


def test_virtual_environment_is_as_if_it_were_activated():
    found = environment_of(program(own=True, venv=Path("/v")), {"PATH": "/bin", "VIRTUAL_ENV": "/ours"})
    assert found == {"PATH": "/v/bin:/bin", "VIRTUAL_ENV": "/v", "PYTHONUNBUFFERED": "1"}


def test_what_the_file_says_comes_before_everything():
    variables = {"PYTHONPATH": "/theirs", "PYTHONUNBUFFERED": "", "PATH": "/theirs"}
    assert environment_of(program(own=True, venv=Path("/v"), variables=variables), {"PATH": "/bin"}) == variables | {"VIRTUAL_ENV": "/v"}


def test_signal_is_noted_and_nothing_is_raised(signals):
    assert signals.first is None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(os.getpid(), number)
    assert (signals.first, signals.count) == (signal.SIGTERM, 3)


def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(number) for number in Signals.NUMBERS]
    with Signals():
        assert all(signal.getsignal(number) not in before for number in Signals.NUMBERS)
    assert [signal.getsignal(number) for number in Signals.NUMBERS] == before


def test_signal_that_was_ignored_stays_so_here_but_not_in_programs():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals, Programs(["it"], signals) as programs:
            os.kill(os.getpid(), signal.SIGHUP)
            assert (signals.first, signals.count) == (None, 0)
            child = programs.start(program("import signal; raise SystemExit(signal.getsignal(signal.SIGHUP) is signal.SIG_DFL)"))
            pump_until(programs, lambda: child.gone)
            assert child.status == 1
    finally:
        signal.signal(signal.SIGHUP, before)


def test_output_keeps_its_stream_and_gets_its_label(signals, capsys):
    # Made here and not by the fixture: between a fixture and its test, pytest sets the streams anew.
    with Programs(["it"], signals) as programs:
        child = programs.start(program("import sys; print('one'); print('two', file=sys.stderr); print('three', end='')"))
        pump_until(programs, lambda: child.gone)
        programs.say("four")
    found = capsys.readouterr()
    assert found.out.splitlines() == ["it     | one", "it     | three"]
    assert found.err.splitlines() == ["it     | two", "launch | four"]


def test_last_lines_are_kept(programs):
    child = programs.start(program("print(*range(30), sep='\\n')"))
    pump_until(programs, lambda: child.gone)
    assert list(child.tail) == [str(number) for number in range(22, 30)]


@pytest.mark.parametrize(("source", "status"), [("pass", 0), ("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_status_is_as_a_shell_has_it(programs, source, status):
    child = programs.start(program(source))
    pump_until(programs, lambda: child.gone)
    assert child.status == status


def test_program_has_no_input_and_leads_a_session(programs):
    child = programs.start(program("import os, sys; print(os.getsid(0) == os.getpid(), repr(sys.stdin.read()))"))
    pump_until(programs, lambda: child.gone)
    assert list(child.tail) == ["True ''"]


def test_program_inherits_none_of_our_descriptors(programs):
    first = programs.start(program("import time; time.sleep(1000)"))
    second = programs.start(program("import os; print(len(os.listdir('/proc/self/fd')))", label="other"))
    pump_until(programs, lambda: second.gone)
    assert list(second.tail) == ["4"]  # its three, and the one with which it looks
    assert first.status is None


def test_roles_are_told_apart(programs):
    assert programs.start(program()).role == "runner"
    host = programs.start(program(serves="pair"))
    assert (host.role, str(host)) == ("host", "it (host 'pair')")


def test_program_that_cannot_be_started_is_named(programs):
    with pytest.raises(SpecError, match=r"program 'it' cannot be started: .*no-such"):
        programs.start(program(argv=("/no-such/python",)))


def test_runners_are_ended_as_by_a_ctrl_c_and_hosts_by_sigterm(programs):
    runner = programs.start(program("import time; print('up'); time.sleep(1000)"))
    host = programs.start(program("import time; print('up'); time.sleep(1000)", label="other", serves="pair"))
    pump_until(programs, lambda: runner.tail and host.tail)
    programs.end("runner")
    assert runner.tail[-1] == "KeyboardInterrupt"
    assert host.status is None
    programs.end("host")
    assert host.status == 128 + signal.SIGTERM


def test_program_that_does_not_listen_is_killed_when_its_grace_is_over(programs, monkeypatch):
    monkeypatch.setitem(ENDINGS, "runner", Ending(signal.SIGINT, 0.2))
    child = programs.start(program(STUBBORN))
    pump_until(programs, lambda: child.tail)
    programs.end("runner")
    assert child.status == 128 + signal.SIGKILL


def test_further_signal_cuts_the_grace_short(programs, signals, monkeypatch):
    child = programs.start(program(STUBBORN))
    pump_until(programs, lambda: child.tail)
    pump = programs.pump

    def pump_and_interrupt(*args):
        pump(*args)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setitem(ENDINGS, "runner", Ending(signal.SIGINT, 1e6))
    monkeypatch.setattr(programs, "pump", pump_and_interrupt)
    programs.end("runner")
    assert child.status == 128 + signal.SIGKILL


def test_what_a_program_left_behind_is_ended_with_it(programs):
    source = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)']).pid)"
    child = programs.start(program(source))
    pump_until(programs, lambda: child.status == 0 and child.tail)
    assert not child.gone
    programs.end("runner")
    assert child.gone
    eventually(lambda: _is_gone(int(child.tail[0])), "the end of what it left")


def _is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_leaving_kills_what_nobody_ended_and_closes_everything(signals):
    before = open_descriptors()
    with Programs(["it"], signals) as programs:
        child = programs.start(program(STUBBORN))
        pump_until(programs, lambda: child.tail)
    assert child.status == 128 + signal.SIGKILL
    assert open_descriptors() == before
