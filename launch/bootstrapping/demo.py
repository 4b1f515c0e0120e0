"""The demo: makes the environments that ``launch/demo.yaml`` names, and starts it."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path

from .programs import Programs, say
from .project import Project
from .rendering import find_backend
from .venvs import Recipe, make, setting_up
from .wheel import build_wheel

_END_SECONDS = 20.0
"""What ``shmbridge launch`` gets to end the simulator and then the host; it gives each its own time."""


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
    report = folder / "report.json"
    report.unlink(missing_ok=True)  # or an older run's could be taken for this one's
    say("the policy host and the simulator start, as launch/demo.yaml says")
    # In a folder without the sources, so that what is imported is what was installed.
    status = programs.show(launch_command(policy, project, backend, args), cwd=folder, grace=_END_SECONDS)
    repeat_metrics(report)
    return status if status >= 0 else 128 - status


def simulator_recipe(project: Project) -> Recipe:
    """Return what the simulator's side needs: no torch."""
    return Recipe("simulator", tuple(project.requirements("metaworld", "video", "cli")))


def policy_recipe(project: Project) -> Recipe:
    """Return what the policy's side needs: no simulator."""
    return Recipe("policy", tuple(project.requirements("pixel_bc", "cli")), torch=True)


def launch_command(python: Path, project: Project, backend: str, args: argparse.Namespace) -> list[str | Path]:
    """Return the command that starts both halves, with what was chosen here in place of the file's own values."""
    chosen = {
        "num_episodes": args.num_episodes,
        "seed": args.seed,
        "task": args.task,
        "blank_cameras": str(args.blank_cameras).lower(),
        "gl": backend,
    }
    values = [word for name, value in chosen.items() for word in ("--set", f"{name}={value}")]
    return [python, "-m", "shmbridge", "launch", project.root / "launch" / "demo.yaml", *values]


def repeat_metrics(report: Path) -> None:
    """Print the run's metrics once more, at the beginning of the last line: where they are looked for, without a label before them."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):  # a run that failed has none
        print(f"Metrics: {json.loads(report.read_text())['metrics']}", flush=True)
