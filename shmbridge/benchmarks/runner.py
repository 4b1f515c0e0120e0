"""Measuring: short blocks of every path, one after the other, round after round."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping, Sequence

import numpy as np

from shmbridge.benchmarks.figures import Key, Samples
from shmbridge.benchmarks.machine import Cores
from shmbridge.benchmarks.matched_ring import slot_bytes
from shmbridge.benchmarks.paths import Path, open_paths
from shmbridge.benchmarks.peers import pinned, ring_shapes
from shmbridge.benchmarks.scenarios import Scenario
from shmbridge.memory.capacity import check_room, megabytes
from shmbridge.memory.waiting import Deadline
from shmbridge.transport.base import DEFAULT_SLOTS

SITTINGS = 3
"""How often everything is set up anew. Which pages of memory a ring happens to get makes a tenth of the time of a large copy."""
MIN_ROUNDS = 3
"""Of each sitting."""
_UNTIMED = 3
"""Requests before each block: another path had the caches until then."""


def measure(scenarios: Sequence[Scenario], cores: Cores, seconds: float) -> Samples:
    """Measure every path of some scenarios for about so long.

    Garbage is collected as it is for users: whenever Python thinks fit, on either side of every path.

    Raises:
        SharedMemoryFullError: There is too little. Nothing was started.
        ShmbridgeError: A side does not start, or answers wrongly.
    """
    check_scenarios_fit(scenarios)
    sittings = [_sit(scenarios, cores, seconds / SITTINGS) for _ in range(SITTINGS)]
    return {key: [block for sitting in sittings for block in sitting[key]] for key in sittings[0]}


def _sit(scenarios: Sequence[Scenario], cores: Cores, seconds: float) -> Samples:
    with contextlib.ExitStack() as stack:
        stack.enter_context(pinned(cores.simulator))
        name = f"bench-{secrets.token_hex(4)}"
        blocks: dict[Key, tuple[Path, int]] = {}
        for scenario in scenarios:
            paths = stack.enter_context(open_paths(scenario, f"{name}-{scenario.name}", cores.policy))
            blocks |= {Key(scenario.name, path): (call, scenario.requests) for path, call in paths.items()}
        return run_rounds(blocks, seconds)


def run_rounds(blocks: Mapping[Key, tuple[Path, int]], seconds: float) -> Samples:
    """Run one block of each path per round, until the time is over.

    A round's blocks are compared with each other only. The order turns round by round, so that whatever grows or fades over time
    favours none. The first round warms everything up and is not kept.

    Args:
        blocks: What to call, and how often.
        seconds: For all rounds; the last one is finished, there are at least :data:`MIN_ROUNDS`, and an odd number, so that the middle one exists.
    """
    order = list(blocks)
    samples: dict[Key, list[np.ndarray]] = {key: [] for key in order}
    for key in order:
        _block(*blocks[key])
    deadline = Deadline(seconds)
    while not deadline.passed or len(samples[order[0]]) < MIN_ROUNDS or len(samples[order[0]]) % 2 == 0:
        for key in order:
            samples[key].append(_block(*blocks[key]))
        order.reverse()
    return samples


def check_scenarios_fit(scenarios: Sequence[Scenario]) -> None:
    """Raise SharedMemoryFullError unless there is room for all the rings at once."""
    rings = 2 * DEFAULT_SLOTS  # of the session, and of the matched ring
    needed = {scenario.name: rings * sum(map(slot_bytes, ring_shapes(scenario))) for scenario in scenarios}
    parts = ", ".join(f"{megabytes(size)} for {name}" for name, size in needed.items())
    check_room(sum(needed.values()), f"{rings} slots of each scenario: {parts}; fewer with --scenario")


def _block(call: Path, requests: int) -> np.ndarray:
    for _ in range(_UNTIMED):
        call()
    return np.array([call() for _ in range(requests)]) / 1e3
