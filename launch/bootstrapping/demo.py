"""The demo: a policy host in one environment, a simulator in another, joined by shared memory only."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .programs import Programs, SetupError, complain, say
from .project import Project
from .rendering import find_backend
from .venvs import Recipe, make, setting_up
from .wheel import build_wheel

NAME = "demo"
POLICY = "pixel_bc"
_LOG_LINES = 30
_END_SECONDS = 5.0
"""What one side gets to end by itself after the other."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen. The defaults are the project's main job."""
    parser.add_argument("--num_episodes", type=int, default=20, metavar="N", help="episodes to evaluate (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode (default: 0)")
    parser.add_argument("--task", default="drawer-open-v3", help="Meta-World's name of the task (default: drawer-open-v3)")
    parser.add_argument("--blank_cameras", action="store_true", help="show the policy constant images: what it does blindly")


def main(programs: Programs, project: Project, args: argparse.Namespace) -> int:
    """Set up, run host and simulator, and return the simulator's exit status."""
    with setting_up(programs, project):
        wheel = build_wheel(programs, project)
        simulator = make(programs, project, simulator_recipe(project), wheel)
        policy = make(programs, project, policy_recipe(project), wheel)
    backend = find_backend(programs, simulator)
    folder = project.root / ".demo"
    folder.mkdir(exist_ok=True)
    _refuse_second_host(programs, policy, folder)
    say("the policy host and the simulator start; the host's log is .demo/host.log")
    return _run_pair(programs, folder, host_command(policy), runner_command(simulator, folder, args), backend)


def simulator_recipe(project: Project) -> Recipe:
    """Return what the simulator's side needs: no torch."""
    return Recipe("simulator", tuple(project.requirements("metaworld", "video", "cli")))


def policy_recipe(project: Project) -> Recipe:
    """Return what the policy's side needs: no simulator."""
    return Recipe("policy", tuple(project.requirements("pixel_bc", "cli")), torch=True)


def host_command(python: Path) -> list[str | Path]:
    """Return the command that serves the policy."""
    return [python, "-m", "shmbridge", "serve", "--name", NAME, "--policy_type", POLICY]


def runner_command(python: Path, folder: Path, args: argparse.Namespace) -> list[str | Path]:
    """Return the command that runs the simulator."""
    remote = ["--policy_deployment", "remote", "--name", NAME, "--policy_type", POLICY, "--remote_kill_on_exit"]
    extent = ["--num_episodes", str(args.num_episodes), "--num_envs", "1", "--seed", str(args.seed)]
    environment = ["metaworld", "--task", args.task] + ["--blank_cameras"] * args.blank_cameras
    return [python, "-m", "shmbridge", "run", *remote, *extent, "--enable_cameras", "--headless", "--output_dir", folder, *environment]


def _refuse_second_host(programs: Programs, python: Path, folder: Path) -> None:
    """Raise SetupError if a host of the demo's name is there: the simulator would use, and then stop, somebody else's."""
    listing = programs.try_call([python, "-m", "shmbridge", "ls", "--name", NAME], cwd=folder)
    if listing.status == 0:
        raise SetupError(f"a host called {NAME} runs on this machine already; stop it, or wait for its end, and try again:\n{listing.output.rstrip()}")


def _run_pair(programs: Programs, folder: Path, host_words: Sequence[str | Path], runner_words: Sequence[str | Path], backend: str) -> int:
    """Run both in a folder without the sources, so that what they import is what was installed."""
    log = folder / "host.log"
    started: list[subprocess.Popen[bytes]] = []
    with log.open("wb") as output:
        try:
            started.append(host := programs.start(host_words, cwd=folder, output=output))
            started.append(runner := programs.start(runner_words, cwd=folder, env={"MUJOCO_GL": backend}))
            return _follow(programs, host, runner, log)
        finally:
            # The simulator first: it says goodbye to the host.
            for process in reversed(started):
                programs.end(process)


def _follow(programs: Programs, host: subprocess.Popen[bytes], runner: subprocess.Popen[bytes], log: Path) -> int:
    """Wait for both and return the runner's exit status, or 1 if the host failed under it."""
    while runner.poll() is None and not host.poll():
        programs.pause()
    other = host if runner.poll() is not None else runner
    with contextlib.suppress(SetupError):
        programs.wait(other, _END_SECONDS)
    if host.poll():
        complain(f"the policy host ended with status {host.returncode}; the end of its log:\n{_tail(log)}")
        return runner.poll() or 1
    if host.poll() is None and runner.returncode == 0:
        complain("the policy host did not end by itself after the run; ending it")
    return runner.returncode


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").rstrip().splitlines()[-_LOG_LINES:])
