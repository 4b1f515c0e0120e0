"""The two scripts against a real engine: the demo between two containers, and every way in which one of them can end."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from engine import ROOT, Engine

HOST, SIM = "run_policy_host.sh", "run_sim.sh"
NOBODY_ELSE = "4242:4242"
_RUN_SECONDS = 240.0
_END_SECONDS = 60.0


class Scripts(NamedTuple):
    """Starts the scripts on one volume, each with a container of a known name, and with a home of their own."""

    engine: Engine
    volume: str
    home: Path
    unique: Callable[[str], str]
    started: list[Script]

    def command(self, script: str | Path, *words: str | Path, container: str) -> list[str]:
        own = ["--engine", self.engine.name, "--shm", self.volume, "--container_name", container]
        return [str(word) for word in (ROOT / "docker" / script, *own, *words)]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "HOME": str(self.home)}

    def start(self, script: str | Path, *words: str | Path) -> Script:
        """Start one as a terminal would: in a session of its own, in which Ctrl-C is not ignored."""
        container = self.unique("script")
        log = self.home / f"{container}.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                self.command(script, *words, container=container),
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(Script(process, container, log))
        return self.started[-1]

    def run(self, script: str | Path, *words: str | Path) -> tuple[int, str]:
        """Run one to its end; return its status and all that it wrote."""
        started = self.start(script, *words)
        return started.wait(_RUN_SECONDS), started.said


class Script(NamedTuple):
    """One that was started; ``log`` is what it and its container wrote."""

    process: subprocess.Popen[bytes]
    container: str
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def until_said(self, text: str) -> None:
        until(lambda: text in self.said or self.process.poll() is not None)
        assert text in self.said

    def wait(self, timeout: float = _END_SECONDS) -> int:
        return self.process.wait(timeout)

    def press_ctrl_c(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)


def until(true: Callable[[], bool], timeout: float = _END_SECONDS) -> None:
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def scripts(engine: Engine, volume: str, tmp_path: Path, unique: Callable[[str], str], policy_image: str, simulator_image: str) -> Iterator[Scripts]:
    made = Scripts(engine, volume, tmp_path, unique, [])
    yield made
    for script in made.started:
        if script.process.poll() is None:
            script.process.terminate()
            script.wait()


def in_shared_memory(engine: Engine, volume: str, image: str) -> list[str]:
    """Return what a new container finds in the volume."""
    code = "import os; print(*os.listdir('/dev/shm'))"
    words = ["run", "--rm", "--network", "none", "--volume", f"{volume}:/dev/shm", "--entrypoint", "python", image, "-c", code]
    return engine.call(*words).stdout.split()


def test_the_demo_runs_between_two_containers_and_nothing_is_left(scripts: Scripts, policy_image: str) -> None:
    host = scripts.start(HOST)
    status, said = scripts.run(SIM, "--num_episodes", "2", "--remote_kill_on_exit")
    assert status == 0, said
    assert "Metrics: {'success_rate': 1.0, 'num_episodes': 2}" in said
    assert host.wait() == 0, host.said
    assert len(json.loads((scripts.home / "eval" / "report.json").read_text())["episodes"]) == 2
    assert (scripts.home / "eval" / "report.json").stat().st_uid == os.getuid()
    assert not any(scripts.engine.exists("container", script.container) for script in scripts.started)
    assert in_shared_memory(scripts.engine, scripts.volume, policy_image) == []


def test_two_hosts_run_at_once_and_ctrl_c_ends_one_of_them(scripts: Scripts) -> None:
    first = scripts.start(HOST, "--name", "first", "--policy_type", "zero")
    second = scripts.start(HOST, "--name", "second", "--policy_type", "zero")
    for host in (first, second):
        host.until_said("is ready")
    first.press_ctrl_c()
    assert first.wait() == 130, first.said
    assert not scripts.engine.exists("container", first.container)
    assert scripts.engine.inspect(second.container, "{{.State.Running}}") == "true"
    again = scripts.start(HOST, "--name", "first", "--policy_type", "zero")
    again.until_said("is ready")


def test_a_host_of_the_same_name_is_refused_with_the_status_of_the_command(scripts: Scripts) -> None:
    scripts.start(HOST, "--policy_type", "zero").until_said("is ready")
    status, said = scripts.run(HOST, "--policy_type", "zero")
    assert status == 1 and "'default'" in said


def test_a_term_signal_ends_a_simulator_that_waits_for_a_host(scripts: Scripts) -> None:
    simulator = scripts.start(SIM, "--name", "nobody")
    until(lambda: scripts.engine.exists("container", simulator.container))
    simulator.process.terminate()
    assert simulator.wait() == 143, simulator.said
    assert not scripts.engine.exists("container", simulator.container)


@pytest.mark.parametrize(("whole_group", "asked"), [(False, True), (True, False)])
def test_a_killed_script_takes_its_container_along(scripts: Scripts, whole_group: bool, asked: bool) -> None:
    host = scripts.start(HOST, "--policy_type", "zero")
    host.until_said("is ready")
    if whole_group:
        os.killpg(host.process.pid, signal.SIGKILL)
    else:
        host.process.kill()
    # A script whose parent does not ask how it ended stays a zombie.
    if asked:
        host.wait()
    until(lambda: not scripts.engine.exists("container", host.container))


def test_ctrl_c_at_a_terminal_ends_the_host(scripts: Scripts) -> None:
    container = scripts.unique("terminal")
    process, terminal = pty.fork()
    if process == 0:
        command = scripts.command(HOST, "--policy_type", "zero", container=container)
        os.execve(command[0], command, scripts.environment())
    said = b""
    end = time.monotonic() + _END_SECONDS
    try:
        while b"is ready" not in said and time.monotonic() < end:
            said += read_some(terminal)
        os.write(terminal, b"\x03")
        while chunk := read_some(terminal):
            said += chunk
        _, status = os.waitpid(process, 0)
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130, said
    assert not scripts.engine.exists("container", container)


def read_some(terminal: int) -> bytes:
    """Return what a terminal shows next; nothing once its program has ended."""
    ready, _, _ = select.select([terminal], [], [], _END_SECONDS)
    assert ready, "the program neither wrote nor ended"
    try:
        return os.read(terminal, 4096)
    except OSError:  # how a terminal says that nobody is left at its other end
        return b""


def test_both_sides_run_as_the_same_other_user(scripts: Scripts) -> None:
    eval_folder = scripts.home / "theirs"
    eval_folder.mkdir(mode=0o777)
    eval_folder.chmod(0o777)
    host = scripts.start(HOST, "--user", NOBODY_ELSE)
    status, said = scripts.run(SIM, "-e", eval_folder, "--user", NOBODY_ELSE, "--num_steps", "3", "--remote_kill_on_exit")
    assert status == 0, said
    assert (eval_folder / "report.json").stat().st_uid == 4242
    assert host.wait() == 0


def test_wrong_flags_of_the_command_end_with_its_status_and_its_words(scripts: Scripts) -> None:
    status, said = scripts.run(SIM, "--num_episode", "3")
    assert status == 2 and "did you mean '--num_episodes'?" in said
    status, said = scripts.run(SIM, "--num_steps", "3", "no_such_environment")
    assert status == 1 and "no_such_environment" in said


def test_a_missing_image_is_built_under_the_name_asked_for(scripts: Scripts, policy_image: str, tmp_path: Path) -> None:
    # A copy of the scripts beside a Dockerfile that is quickly built.
    folder = tmp_path / "docker"
    folder.mkdir()
    for script in (ROOT / "docker").glob("*.sh"):
        shutil.copy2(script, folder)
    (folder / "policy.Dockerfile").write_text(f"FROM {policy_image}\nLABEL made=here\n")
    image = scripts.unique("image")
    try:
        status, said = scripts.run(folder / HOST, "-n", image, "--", "--help")
        assert status == 0, said
        assert f"no image {image} here; building it" in said and "Serve a policy" in said
        (folder / "policy.Dockerfile").write_text(f"FROM {policy_image}\nLABEL made=anew\n")
        scripts.run(folder / HOST, "-n", image, "--", "--help")
        assert scripts.engine.inspect(image, "{{.Config.Labels.made}}") == "here", "built only where it is missing"
        status, said = scripts.run(folder / HOST, "-rn", image, "--", "--help")
        assert status == 0, said
        assert scripts.engine.inspect(image, "{{.Config.Labels.made}}") == "anew", "built anew on request"
    finally:
        scripts.engine.call("rmi", image, check=False)


def test_a_volume_on_disk_is_refused(scripts: Scripts) -> None:
    on_disk = scripts.unique("disk")
    scripts.engine.call("volume", "create", on_disk)
    status, said = scripts.run(HOST, "--shm", on_disk)
    assert status == 1 and f"the volume {on_disk} is no tmpfs" in said
