"""What every policy and every environment must do, whatever it is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from shmbridge.client import Client
from shmbridge.connecting import connect
from shmbridge.environment import Autoreset, Environment, Step
from shmbridge.errors import PolicyError, PolicyRaisedError
from shmbridge.policy import Policy
from shmbridge.spec import TensorSpec

_ROUNDS = 4
_RESET_IN, _INSTRUCT_IN = 1, 2
"""Rounds, with others behind them in which what is shared between sessions shows."""
_OLD_BYTE = 85


def check_policy(make_policy: Callable[[], Policy], offered: Sequence[TensorSpec], *, num_envs: int = 2) -> None:
    """Check a policy against its contract.

    It must accept what is offered, return what its specs promise for all and for some environments, leave observations alone and keep no
    view of them, begin new episodes in some environments, take an instruction within an episode or refuse it, and keep the state of two
    sessions apart: interleaved they must act as each alone, bit for bit.

    Args:
        make_policy: Makes a fresh one; called several times.
        offered: What the simulator offers, per environment.
        num_envs: At least 2, so that some can be left out.

    Raises:
        AssertionError, ShmbridgeError: What is wrong.
    """
    assert num_envs >= 2, "check_policy needs at least two environments, to be able to ask for one of them"
    alone = [_play(make_policy(), offered, num_envs, seeds=(seed,))[0] for seed in (0, 1)]
    again = _play(make_policy(), offered, num_envs, seeds=(0,))[0]
    assert all(map(_equal, alone[0], again)), "the same observations give other actions in a second run: seed what is random, per session"
    together = _play(make_policy(), offered, num_envs, seeds=(0, 1))
    for name, first, second in zip(("first", "second"), alone, together, strict=True):
        for step, (expected, found) in enumerate(zip(first, second, strict=True)):
            text = f"the {name} of two interleaved sessions acts differently from alone at step {step}: state is shared between sessions"
            assert _equal(expected, found), text
    _check_subset(make_policy(), offered, num_envs)


def _play(policy: Policy, offered: Sequence[TensorSpec], num_envs: int, seeds: Sequence[int]) -> list[list[dict[str, np.ndarray]]]:
    """Return the whole chunks of one session per seed, all on one policy, taking turns."""
    try:
        clients = [connect(policy, observation_specs=offered, num_envs=num_envs) for _ in seeds]
        generators = [np.random.default_rng(seed) for seed in seeds]
        played: list[list[dict[str, np.ndarray]]] = [[] for _ in seeds]
        for number in range(_ROUNDS):
            for client, generator, seed, chunks in zip(clients, generators, seeds, played, strict=True):
                if number == _RESET_IN:
                    client.reset([0])
                if number == _INSTRUCT_IN:
                    client.instruct([0], f"instruction {seed}")
                chunks.append(_infer(client, _sample(offered, num_envs, generator=generator)))
        return played
    finally:
        policy.close()


def _infer(client: Client, observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the chunk; where an instruction is refused, begin an episode with it instead, as the caller of such a policy has to."""
    try:
        return dict(client.infer(observation).actions)
    except PolicyRaisedError as error:
        asked = "instruct must take a text or refuse it by raising shmbridge.PolicyError"
        assert "in instruct\n" not in error.remote_traceback, f"{asked}; it raised {error.error_type}"
        raise
    except PolicyError:
        client.reset([0])
        return dict(client.infer(observation).actions)


def _check_subset(policy: Policy, offered: Sequence[TensorSpec], num_envs: int) -> None:
    specs = policy.specs({spec.name: spec for spec in offered})
    session = policy.new_session(num_envs)
    policy.reset(session, list(range(num_envs)), [""] * num_envs)
    rows = _sample(specs.observation, *specs.observation_batch(1), generator=np.random.default_rng(0))
    answer = policy.infer(session, rows, [num_envs - 1])
    for spec in specs.action:
        found = np.asarray(answer[spec.name]).shape
        expected = (1, specs.horizon, *spec.shape)
        assert found == expected, f"asked for one environment, {spec.name!r} came back as {found}, expected {expected}"
    policy.close()


def check_environment(environment: Environment, *, steps: int = 3, seed: int = 0) -> None:
    """Check an environment against its contract, and close it.

    It must fill what it is given and only that, repeat itself bit for bit for equal seeds, leave rows alone that are not to be reset, and
    return a row per environment.

    Raises:
        AssertionError: What is wrong.
    """
    try:
        # Each run is given memory with other old content, so what an environment does not write shows as a difference.
        first = _run_steps(environment, steps, seed, fill=0)
        again = _run_steps(environment, steps, seed, fill=1)
        for step, (expected, found) in enumerate(zip(first, again, strict=True)):
            text = f"two runs with the same seeds differ at observation {step}: it is not reproducible, or does not write all that it is given"
            assert _equal(expected, found), text
        _check_parts(environment, seed)
        if environment.autoreset is Autoreset.DISABLED and environment.num_envs > 1:
            _check_mask(environment, seed)
    finally:
        environment.close()
        environment.close()


def _run_steps(environment: Environment, steps: int, seed: int, *, fill: int) -> list[dict[str, np.ndarray]]:
    out = _buffers(environment, fill)
    infos = environment.reset(seed=_seeds(environment, seed), options={}, out=out)
    assert len(infos) == environment.num_envs, f"reset must return one info per environment, it returned {len(infos)}"
    seen = [_copied(out)]
    generator = np.random.default_rng(seed)
    for _ in range(steps):
        action = _sample(environment.specs.action, environment.num_envs, generator=generator)
        step = environment.step(action, out=out)
        _check_step(environment, step)
        seen.append(_copied(out))
        if np.any(np.asarray(step.terminated) | np.asarray(step.truncated)):
            break  # what follows depends on the way of resetting, which is not asked here
    return seen


def _check_step(environment: Environment, step: Step) -> None:
    n = environment.num_envs
    for name in ("reward", "terminated", "truncated"):
        shape = np.shape(getattr(step, name))
        assert shape == (n,), f"step must return {name} as ({n},), it returned {shape}"
    assert len(step.info) == n, f"step must return one info per environment, it returned {len(step.info)}"
    for info in step.info:
        metrics = environment.episode_metrics(info)
        assert all(isinstance(value, (int, float, np.number)) for value in metrics.values()), f"episode_metrics must return numbers: {metrics}"


def _check_parts(environment: Environment, seed: int) -> None:
    """A policy may ask for any part of what is offered: each tensor alone must be filled as among all."""
    whole = _buffers(environment)
    environment.reset(seed=_seeds(environment, seed), options={}, out=whole)
    for name in whole:
        part = {name: _buffers(environment, 1)[name]}
        environment.reset(seed=_seeds(environment, seed), options={}, out=part)
        assert np.array_equal(part[name], whole[name]), f"{name!r} alone is filled differently from all tensors together"


def _check_mask(environment: Environment, seed: int) -> None:
    out = _buffers(environment)
    environment.reset(seed=_seeds(environment, seed), options={}, out=out)
    # One step first, or a reset of everything to a fixed start would look like no reset at all.
    environment.step(_sample(environment.specs.action, environment.num_envs, generator=np.random.default_rng(seed)), out=out)
    before = _copied(out)
    mask = np.zeros(environment.num_envs, np.bool_)
    mask[0] = True
    environment.reset(seed=[seed + 1000] + [None] * (environment.num_envs - 1), options={"reset_mask": mask}, out=out)
    for name, array in out.items():
        assert np.array_equal(array[1:], before[name][1:]), f"a reset of environment 0 alone changed other rows of {name!r}"
    fresh = _buffers(environment)
    environment.reset(seed=[seed + 1000, *_seeds(environment, seed)[1:]], options={}, out=fresh)
    for name, array in fresh.items():
        assert np.array_equal(array[0], out[name][0]), f"environment 0, reset alone, does not start as when all are reset: see {name!r}"


def _buffers(environment: Environment, fill: int = 0) -> dict[str, np.ndarray]:
    buffers = {spec.name: spec.generate(environment.num_envs) for spec in environment.specs.observation}
    for array in buffers.values():
        array.view(np.uint8).fill(_OLD_BYTE * fill)
    return buffers


def _seeds(environment: Environment, seed: int) -> list[int | None]:
    return [seed + env_id for env_id in range(environment.num_envs)]


def _sample(specs: Sequence[TensorSpec], *batch: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Return random values: small floats, whole numbers 0 and 1 (valid for every Discrete space), in images bytes of any value."""
    return {spec.name: _sample_one(spec, (*batch, *spec.shape), generator) for spec in specs}


def _sample_one(spec: TensorSpec, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    if spec.storage.kind in "fc":
        return generator.uniform(-1, 1, shape).astype(spec.storage)
    if spec.storage.kind == "S" or spec.dtype == "bfloat16":
        return np.zeros(shape, spec.storage)
    return generator.integers(0, 256 if spec.dtype == "uint8" and len(spec.shape) > 1 else 2, shape).astype(spec.storage)


def _copied(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in arrays.items()}


def _equal(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)
