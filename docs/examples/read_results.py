"""Evaluate a policy twice, then read what was written: which seeds only one of the two solved, and what was done there."""

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def evaluate(folder, gain):
    """Run 20 episodes with seeds 0 to 19. As a person would type it, without ``python -m``."""
    policy = ["--policy_type", f"{HERE / 'gain_policy.py'}:GainPolicy", "--gain", str(gain)]
    extent = ["--num_episodes", "20", "--num_envs", "4", "--seed", "0", "--output_dir", str(folder), "--record"]
    environment = [f"{HERE / 'point_environment.py'}:PointEnvironment", "--max_steps", "16"]
    subprocess.run([sys.executable, "-m", "shmbridge", "run", *policy, *extent, *environment], check=True)


def solved(folder):
    """Return the seeds of the episodes that succeeded."""
    with (folder / "episodes.csv").open(newline="") as file:
        return {int(row["seed"]) for row in csv.DictReader(file) if float(row["success_rate"])}


def actions_of(folder, seed):
    """Return what was done in the episode of one seed, (steps, 2) [m]."""
    report = json.loads((folder / "report.json").read_text())
    index = next(episode["index"] for episode in report["episodes"] if episode["seed"] == seed)
    with np.load(folder / "recording.npz") as recording:
        return recording["action"][recording["@episode"] == index]  # (steps, num_envs, 2), of which one environment played it


def main():
    """Compare a bold controller with a careful one."""
    with tempfile.TemporaryDirectory() as folder:
        careful, bold = Path(folder) / "careful", Path(folder) / "bold"
        evaluate(careful, gain=0.5)
        evaluate(bold, gain=0.7)
        subprocess.run([sys.executable, "-m", "shmbridge", "compare", str(careful), str(bold)], check=True)
        for seed in sorted(solved(bold) - solved(careful))[:3]:
            first_steps = [np.linalg.norm(actions_of(each, seed)[0]) for each in (careful, bold)]
            print("seed {}: the first step was {:.2f} m, of the bold one {:.2f} m".format(seed, *first_steps))


if __name__ == "__main__":
    main()
