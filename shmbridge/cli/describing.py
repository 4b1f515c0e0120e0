"""``shmbridge run --describe``: what an environment offers and takes, without running anything."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from shmbridge.cli.console import print_table
from shmbridge.cli.wording import counted, print_json, size
from shmbridge.environment import EnvironmentSpecs
from shmbridge.layout import observation_layout
from shmbridge.transport.base import DEFAULT_SLOTS


def description(specs: EnvironmentSpecs, num_envs: int) -> dict[str, Any]:
    """Return what can be said of an environment without a policy, ready for JSON.

    ``bytes_at_most`` is the shared memory for observations of a session whose policy takes everything that is offered. Many take
    less. One that sees several observations at once (``observation_steps``) takes that many times as much.
    """
    return {
        "observation": {spec.name: str(spec) for spec in specs.observation},
        "action": {spec.name: str(spec) for spec in specs.action},
        "num_envs": num_envs,
        "slots": DEFAULT_SLOTS,
        "bytes_at_most": observation_layout(specs.observation, num_envs).segment_size(DEFAULT_SLOTS),
    }


def describe(specs: EnvironmentSpecs, num_envs: int, *, as_json: bool) -> None:
    """Print what an environment offers and takes."""
    found = description(specs, num_envs)
    if as_json:
        print_json(found)
        return
    ways = (("offered", specs.observation), ("taken", specs.action))
    rows = [(spec.name, way, str(spec), f"{spec.nbytes:,}") for way, group in ways for spec in group]
    print_table(("tensor", "", "per environment", "bytes"), rows)
    at_most = size(found["bytes_at_most"])
    print(f"{counted(num_envs, 'environment')}, {DEFAULT_SLOTS} slots: at most {at_most} of shared memory, for a policy that takes all")


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Send to standard error what a simulator prints while it is imported and built, in whatever language."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
