"""What ``doctor`` prints, and its exit status."""

from __future__ import annotations

import json

import pytest
from machines import make_folder, make_machine

from shmbridge.cli import doctor
from shmbridge.errors import SpecError
from shmbridge.host import serve
from shmbridge.memory.capacity import Room
from shmbridge.memory.mounts import memory_id
from shmbridge.testing import MarkingPolicy


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
    assert any("memory id" in line and "0123-4567" in line for line in lines)


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
    assert lines[-6:-2] == [
        "problem  C library: musl 1.2",
        "         why  semaphores are shared, and others than glibc lay them out differently",
        "         do   use an image that is based on glibc, such as Debian, not Alpine",
        "         more docs/howto/troubleshooting.md#other-libc",
    ]
    assert lines[-1] == "1 problem, 1 warning"


def test_json_is_one_document(machine, capsys):
    machine(libc="musl 1.2")
    assert doctor.main(["--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["problems"], found["warnings"]) == (1, 0)
    assert (found["memory_id"], found["peer"]) == ("0123-4567", None)
    assert {(finding["level"], finding["slug"]) for finding in found["findings"]} == {("ok", None), ("problem", "other-libc")}
    assert all(set(finding) == {"check", "level", "slug", "found", "why", "do"} for finding in found["findings"])


def test_a_launch_file_that_cannot_be_read_is_a_problem_beside_the_others(machine, capsys, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("programs: {}\n")
    assert doctor.main([str(tmp_path / "none.yaml"), str(broken)]) == 1
    out = capsys.readouterr().out
    assert "none.yaml: cannot be read:" in out and "No such file or directory" in " ".join(out.split()) and "Errno" not in out
    assert "broken.yaml" in out and "C library" in out
    assert out.count("check the path; in a container it must be mounted") == 1
    assert out.count("mend the file: docs/howto/launch-files.md") == 1
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


@pytest.mark.parametrize(
    "words", [["--gpu"], ["--shm_group", "7"], ["--peer", "x", "--shm_group", "staff"], ["--describe_timeout_s", "0"], ["--describe_timeout_s", "soon"]]
)
def test_wrong_calls_are_refused(words):
    with pytest.raises(SystemExit) as ended:
        doctor.main(words)
    assert ended.value.code == 2


@pytest.mark.parametrize("spelling", ["{}", "shm://{}"])
def test_a_host_is_asked_by_name_and_by_address(machine, capsys, unique_name, spelling):
    with serve(MarkingPolicy, f"shm://{unique_name}"):
        assert doctor.main(["--json", "--peer", spelling.format(unique_name)]) == 0
    found = json.loads(capsys.readouterr().out)
    peer = found["peer"]
    assert (peer["name"], peer["here"]["memory_id"], peer["there"]["memory_id"]) == (unique_name, memory_id(), memory_id())
    assert "same memory" in {finding["check"] for finding in found["findings"]}


def test_a_host_that_is_not_there_is_a_problem(machine, capsys, unique_name):
    assert doctor.main(["--peer", unique_name]) == 1
    assert f"problem  host {unique_name}: is not in this /dev/shm" in capsys.readouterr().out
    assert doctor.main(["--json", "--peer", unique_name]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["peer"]["state"], found["peer"]["there"]) == (None, None)


def test_a_name_that_no_host_can_have_is_refused(machine):
    with pytest.raises(SpecError, match="cannot name a host"):
        doctor.main(["--peer", "No Such"])


def test_this_machine_can_be_examined(capsys):
    doctor.main(["--json"])
    assert json.loads(capsys.readouterr().out)["findings"]
