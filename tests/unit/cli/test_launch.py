"""``shmbridge launch`` without processes: its flags, what it shows, and what it says of programs. The rest is in integration/test_launch.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from shmbridge import serve
from shmbridge.cli.launch import check_interpreter, ending, main, shown, state_of, values_from_flags
from shmbridge.cli.launch_file import Program
from shmbridge.errors import SpecError
from shmbridge.testing import MarkingPolicy


def program(**keys):
    given = {"label": "it", "argv": ("/v/bin/python", "-m", "shmbridge", "run", "my file"), "words": (), "python": Path("/v/bin/python"), "venv": None}
    return Program(**{**given, "own_python": True, "folder": Path("/out here"), "variables": {}, "serves": None, **keys})


@pytest.fixture
def pair(tmp_path):
    path = tmp_path / "pair.yaml"
    path.write_text("values: {steps: 3}\nprograms:\n  run: {shmbridge: 'run --num_steps ${steps} x'}\n  policy: {shmbridge: serve --name pair}\n")
    return path


@pytest.mark.parametrize(
    ("given", "values"),
    [([], {}), (["a=1"], {"a": "1"}), (["a=", "b=c=d"], {"a": "", "b": "c=d"}), (["a=1", "a=2"], {"a": "2"}), (["a=two words"], {"a": "two words"})],
)
def test_values_are_taken_from_flags(given, values):
    assert values_from_flags(given) == values


@pytest.mark.parametrize("text", ["a", "", "=1"])
def test_value_without_name_or_text_is_refused(text):
    with pytest.raises(SpecError, match="NAME=VALUE"):
        values_from_flags([text])


def test_dry_run_shows_hosts_first_and_starts_nothing(pair, capsys):
    assert main([str(pair), "--dry_run", "--set", "steps=7"]) == 0
    found = capsys.readouterr()
    assert found.err == ""
    lines = found.out.splitlines()
    assert [line for line in lines if line.startswith("#")] == ["# policy: host 'pair'", "# run: runner"]
    assert lines[3].endswith(f"{sys.executable} -m shmbridge run --num_steps 7 x)")


def test_program_is_shown_with_its_folder_and_variables_as_a_shell_takes_them():
    text = shown(program(variables={"GL": "egl", "B": "a b"}), {})
    assert text == "# it: runner\n(cd '/out here' && env GL=egl B='a b' /v/bin/python -m shmbridge run 'my file')"


def test_variables_that_are_taken_away_are_shown_where_there_are_any():
    assert "env -u PYTHONPATH -u VIRTUAL_ENV /v/bin" in shown(program(), {"PYTHONPATH": "x", "VIRTUAL_ENV": "y", "PATH": "z"})
    assert "env " not in shown(program(own_python=False), {"PYTHONPATH": "x"})


def test_missing_environment_is_told_with_the_command_that_makes_it(tmp_path):
    venv = tmp_path / "venv"
    with pytest.raises(SpecError, match=rf"f.yaml: program 'it', venv: {venv} has no bin/python. Make it: python3 -m venv {venv} && .*make demo"):
        check_interpreter(program(venv=venv, python=venv / "bin" / "python"), Path("f.yaml"))


@pytest.mark.parametrize("name", ["none", "."])
def test_interpreter_that_is_none_is_told(tmp_path, name):
    with pytest.raises(SpecError, match="program 'it', python: there is no interpreter"):
        check_interpreter(program(python=tmp_path / name), Path("f.yaml"))


def test_interpreter_that_is_there_is_taken():
    check_interpreter(program(python=Path(sys.executable)), Path("f.yaml"))


class Ended:
    def __init__(self, status):
        self.status = status


@pytest.mark.parametrize(
    ("status", "text"),
    [(0, "ended with status 0"), (3, "ended with status 3"), (137, "ended by SIGKILL"), (130, "ended by SIGINT"), (255, "ended with status 255")],
)
def test_end_of_a_program_is_told_in_words(status, text):
    assert ending(Ended(status)) == text


def test_state_of_a_host_is_what_it_says_or_what_its_silence_means(unique_name):
    assert state_of(unique_name) == "starting"
    with serve(MarkingPolicy(), f"shm://{unique_name}"):
        assert state_of(unique_name) == "READY"


@pytest.mark.parametrize("words", [[], ["--dry_run"], ["f.yaml", "g.yaml"], ["f.yaml", "--sett", "a=1"], ["f.yaml", "--start_timeout_ms", "0"]], ids=str)
def test_wrong_calls_have_status_2(words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


def test_value_that_the_file_does_not_have_is_refused(pair):
    with pytest.raises(SpecError, match="did you mean 'steps'"):
        main([str(pair), "--dry_run", "--set", "step=7"])
