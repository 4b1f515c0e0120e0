"""What ``doctor`` prints, and its exit status."""

from __future__ import annotations

import json

import pytest
from machines import make_folder, make_machine

from shmbridge.cli import doctor
from shmbridge.cli.doctor_checks import Finding, Level
from shmbridge.errors import SpecError
from shmbridge.memory.capacity import Room


@pytest.fixture
def machine(monkeypatch):
    """Let the doctor find a machine that the test decides."""
    found = {"machine": make_machine()}
    monkeypatch.setattr(doctor, "look_at_machine", lambda: found["machine"])

    def decide(*args, **changes):
        found["machine"] = make_machine(*args, **changes)

    return decide


def test_nothing_wrong_is_said_and_is_success(machine, capsys):
    assert doctor.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "no problems, no warnings"
    assert all(line.startswith(("ok", " ")) for line in lines[:-2])


def test_a_warning_is_no_failure(machine, capsys):
    machine(cores=1, allowed=1)
    assert doctor.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "no problems, 1 warning"
    assert any(line.startswith("warning  cores: 1") for line in lines)


def test_a_problem_is_a_failure_and_comes_last_with_what_to_do(machine, capsys):
    machine(libc="musl 1.2", cores=1, allowed=1)
    assert doctor.main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-5:-2] == [
        "problem  C library: musl 1.2",
        "         expected: glibc: others lay out semaphores differently",
        "         do: use an image that is based on glibc, such as Debian, not Alpine",
    ]
    assert lines[-1] == "1 problem, 1 warning"


def test_json_is_one_document(machine, capsys):
    machine(libc="musl 1.2")
    assert doctor.main(["--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["problems"], found["warnings"]) == (1, 0)
    assert {finding["level"] for finding in found["findings"]} == {"ok", "problem"}
    assert all(set(finding) == {"check", "level", "found", "expected", "remedy"} for finding in found["findings"])


def test_a_launch_file_that_cannot_be_read_is_a_problem_beside_the_others(machine, capsys, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("programs: {}\n")
    assert doctor.main([str(tmp_path / "none.yaml"), str(broken)]) == 1
    out = capsys.readouterr().out
    assert f"{tmp_path}/none.yaml: cannot be read: No such file or directory" in out and "Errno" not in out
    assert "broken.yaml" in out and "ok       C library" in out
    assert out.splitlines()[-1] == "2 problems, no warnings"


def test_values_are_set_as_for_launch(machine, capsys, tmp_path, unique_name):
    file = tmp_path / "one.yaml"
    file.write_text("values: {python: /none}\nprograms:\n  sim:\n    python: ${python}\n    shmbridge: run --policy_deployment local x\n")
    assert doctor.main([str(file), "--set", "python=/no/such/interpreter"]) == 1
    assert "/no/such/interpreter" in capsys.readouterr().out
    with pytest.raises(SpecError, match="expected NAME=VALUE"):
        doctor.main([str(file), "--set", "nonsense"])


def test_room_is_no_guess_where_a_file_says_what_is_needed(machine, capsys, tmp_path):
    machine(make_folder(room=Room("/dev/shm", 60_000_000, 64_000_000)))
    script = tmp_path / "script.yaml"
    script.write_text("programs: {one: {script: -c pass}}\n")
    assert doctor.main([]) == 0
    assert "1 warning" in capsys.readouterr().out
    assert doctor.main([str(script)]) == 0
    assert "no warnings" in capsys.readouterr().out


def test_a_finding_is_broken_between_words_below_its_beginning():
    finding = Finding("check", Level.WARNING, "many words " * 10, "more words " * 10, "type: shmbridge-with-a-very-long-name --flag " * 3)
    lines = doctor.paragraph(finding, 60, coloured=False).splitlines()
    assert lines[0].startswith("warning  check: many words")
    assert all(line.startswith(" " * 9) for line in lines[1:])
    assert all(len(line) <= 60 for line in lines)
    assert sum(line.startswith(("         expected:", "         do:")) for line in lines) == 2


def test_a_level_has_a_colour_on_a_terminal_only():
    finding = Finding("check", Level.OK, "fine")
    assert doctor.paragraph(finding, 80, coloured=False) == "ok       check: fine"
    assert doctor.paragraph(finding, 80, coloured=True) == "\x1b[32mok       \x1b[0mcheck: fine"


@pytest.mark.parametrize("words", [["--gpu"], ["--describe_timeout_s", "0"], ["--describe_timeout_s", "soon"]])
def test_wrong_calls_are_refused(words):
    with pytest.raises(SystemExit) as ended:
        doctor.main(words)
    assert ended.value.code == 2


def test_this_machine_can_be_examined(capsys):
    doctor.main(["--json"])
    assert json.loads(capsys.readouterr().out)["findings"]
