"""Collect demonstrations in the simulator's environment: what the scripted expert would do where a disturbed robot is.

    python -m shmbridge_policies.pixel_bc.collect --task drawer-open-v3 --episodes 60 --out demonstrations.npz

Needs metaworld, and no torch. The expert's action is recorded; the action carried out has noise added, so that the
policy learns to come back from where its own mistakes will lead it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

from shmbridge_launch.envs.metaworld_env import MetaWorldConfig, MetaWorldEnvironment
from shmbridge_policies.metaworld_expert import MetaWorldExpertConfig, MetaWorldExpertPolicy
from shmbridge_policies.pixel_bc.downscale import downscale

LARGEST_NOISE = 0.8
LONGEST_DETOUR = 30


def main() -> None:
    """Run the episodes and write ``images`` (steps, cameras, 60, 80, 3) uint8, ``actions`` (steps, 4) float32, ``observations``."""
    flags = _parse()
    environment = MetaWorldEnvironment(MetaWorldConfig(task=flags.task), enable_cameras=True)
    expert = MetaWorldExpertPolicy(MetaWorldExpertConfig(task=flags.task))
    names = [spec.name for spec in environment.specs.observation if spec.name.startswith("camera_obs/")]
    moments: list[tuple[np.ndarray, np.ndarray]] = []
    for seed in range(flags.first_seed, flags.first_seed + flags.episodes):
        moments += demonstrate(environment, expert, names, seed)
        print(f"seed {seed}: {len(moments)} steps so far", flush=True)
    environment.close()
    images, actions = zip(*moments, strict=True)
    np.savez(flags.out, images=np.stack(images), actions=np.stack(actions), observations=np.array(names))


def demonstrate(
    environment: MetaWorldEnvironment,
    expert: MetaWorldExpertPolicy,
    names: list[str],
    seed: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield what is seen and what the expert would do, (cameras, 60, 80, 3) uint8 and (4,) float32, until the episode ends.

    The robot first drifts off in a random direction for up to 30 steps, then follows the expert, with noise of a strength
    that is the episode's own.
    """
    random = np.random.default_rng(seed)
    scale, detour, direction = random.uniform(0.0, LARGEST_NOISE), random.integers(LONGEST_DETOUR), random.uniform(-1.0, 1.0, 4)
    out = {spec.name: spec.generate(1) for spec in environment.specs.observation}
    environment.reset(seed=[seed], options={}, out=out)
    ended, step = False, 0
    while not ended:
        wanted = expert.infer(None, out, [0])["action"][0, 0]
        yield np.stack([downscale(out[name])[0] for name in names]), wanted
        action = direction if step < detour else wanted + random.normal(0.0, scale, 4)
        result = environment.step({"action": np.clip(action, -1.0, 1.0).astype(np.float32)[np.newaxis]}, out=out)
        ended, step = bool(result.terminated[0] or result.truncated[0]), step + 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="drawer-open-v3")
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--first-seed", "--first_seed", type=int, default=10_000, help="evaluations use small seeds: keep away from them")
    parser.add_argument("--out", default="demonstrations.npz")
    return parser.parse_args()


if __name__ == "__main__":
    main()
