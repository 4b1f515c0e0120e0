"""The scripts of docker/, run against :mod:`fake_engine`."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fake_engine import STOPPED

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
HOST, SIM, BUILD = "run_policy_host.sh", "run_sim.sh", "build.sh"
KEPT = "--policy_deployment remote --num_episodes 20 --output_dir /eval --enable_cameras --headless"
DEMO = [*KEPT.split(), "metaworld", "--task", "drawer-open-v3"]
TEMPLATES = {"runtimes": "{{json .Runtimes}}", "security": "{{json .SecurityOptions}}", "rootless": "{{.Host.Security.Rootless}}"}
WATCHDOG_SECONDS = 30.0
_MAIN = "from pathlib import Path\nfrom fake_engine import main\nsys.exit(main(Path(sys.argv[0]).name, sys.argv[1:]))\n"


@dataclass(frozen=True)
class Place:
    """A home and a fake engine in it; ``state`` is the engine's folder."""

    home: Path
    state: Path

    def engines(self, **answers: dict[str, str]) -> None:
        """Let these engines work, and only these."""
        named = {name: {TEMPLATES[key]: value for key, value in given.items()} for name, given in answers.items()}
        (self.state / "info.json").write_text(json.dumps(named))

    def container(self, *, status: int = 0, waits: bool = False, stopped: int = STOPPED) -> None:
        """Say how containers end."""
        (self.state / "run.json").write_text(json.dumps({"status": status, "waits": waits, "stopped": stopped}))

    def volumes_fail(self, says: str, *, made: bool) -> None:
        """Let 'volume create' complain, and say whether the volume is there afterwards, made by somebody else."""
        (self.state / "create.json").write_text(json.dumps({"says": says, "made": made}))

    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.state / 'bin'}:{os.environ['PATH']}", "HOME": str(self.home), "FAKE_ENGINE": str(self.state), "LC_ALL": "C.UTF-8"}

    def script(self, name: str, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a script of docker/ to its end."""
        command = [DOCKER / name, *words]
        finished = subprocess.run(
            command, env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WATCHDOG_SECONDS, check=False
        )
        assert not check or finished.returncode == 0, finished.stderr
        return finished

    def calls(self, *kind: str) -> list[list[str]]:
        """Return the engine's calls that begin with these words."""
        path = self.state / "calls"
        made = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in made if tuple(call[1 : 1 + len(kind)]) == kind]

    def run_words(self) -> list[str]:
        """Return the words of the one container that was run."""
        (call,) = self.calls("run")
        return call

    def passed_on(self) -> list[str]:
        """Return what the container was given behind its image."""
        words = self.run_words()
        return words[words.index("serve" if "serve" in words else "run", 2) + 1 :]


def make_place(folder: Path) -> Place:
    """Return a home, and a docker and a podman that both work and have both images, in an empty folder."""
    made = Place(folder / "home", folder / "engine")
    for each in (made.home, made.state / "bin", made.state / "images", made.state / "volumes", made.state / "containers"):
        each.mkdir(parents=True)
    for name in ("docker", "podman"):
        program = made.state / "bin" / name
        program.write_text(f"#!{sys.executable} -SE\nimport sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n{_MAIN}")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    for image in ("shmbridge-policy", "shmbridge-simulator"):
        (made.state / "images" / image).touch()
    made.engines(docker={}, podman={})
    made.container()
    return made


def in_shell(script: str, code: str) -> list[str]:
    """Return the lines that a few lines of bash print once a script's functions are known."""
    whole = f"source {shlex.quote(str(DOCKER / script))}\n{code}"
    return subprocess.run(["bash", "-c", whole, script], capture_output=True, text=True, timeout=WATCHDOG_SECONDS, check=True).stdout.splitlines()


def follows(words: list[str], flag: str) -> list[str]:
    """Return all values of a flag among the engine's words."""
    return [value for word, value in itertools.pairwise(words) if word == flag]


def start(place: Place, script: str, *words: str, stopped: int = STOPPED) -> subprocess.Popen[bytes]:
    """Start a script as a terminal would, in a process group of its own, and wait for its container, which ends with ``stopped`` when it is stopped."""
    place.container(waits=True, stopped=stopped)
    # As bytes and with a new session: what ends it must not end the tests.
    process = subprocess.Popen([DOCKER / script, *words], env=place.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    until(lambda: any((place.state / "containers").iterdir()))
    return process


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + WATCHDOG_SECONDS
    while not true():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)
