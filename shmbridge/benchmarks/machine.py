"""The machine: which cores the two sides get, and what to say about it beside the figures."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from shmbridge.errors import ShmbridgeError
from shmbridge.memory.posix import libc_version
from shmbridge.version import __version__


class Cores(NamedTuple):
    """One core for each side."""

    simulator: int
    policy: int


class Machine(msgspec.Struct, frozen=True):
    """What figures depend on."""

    cpu: str
    simulator_core: int
    policy_core: int
    cores_allowed: int
    load: float
    """Processes that wanted to run during the last minute, before the benchmark began."""
    kernel: str
    libc: str
    python: str
    numpy: str
    shmbridge: str


def choose_cores(allowed: Collection[int], threads_beside: Callable[[int], Collection[int]]) -> Cores:
    """Return two cores of those that this process may use; two threads of one physical core only if there is nothing else.

    Args:
        allowed: Numbers of the cores.
        threads_beside: The numbers that share a physical core with the given one.

    Raises:
        ShmbridgeError: There is one only.
    """
    first, *others = sorted(allowed)
    if not others:
        text = f"the benchmark pins its two sides to two cores, and this process may use core {first} alone"
        raise ShmbridgeError(f"{text}: allow another one (taskset -c {first},N shmbridge bench; --cpuset-cpus for a container)")
    beside = threads_beside(first)
    return Cores(first, next((core for core in others if core not in beside), others[0]))


def threads_beside(core: int) -> set[int]:
    """Return the cores that share a physical core with this one, itself included; only itself where the kernel does not say."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text()
    except OSError:
        return {core}
    return numbers_in(text)


def numbers_in(text: str) -> set[int]:
    """Return the numbers in a list as the kernel writes it: ``0-2,8``."""
    ends: list[Sequence[str]] = [part.split("-") for part in text.strip().split(",") if part]
    return {number for part in ends for number in range(int(part[0]), int(part[-1]) + 1)}


def describe_machine(cores: Cores) -> Machine:
    """Return what there is to say."""
    return Machine(
        cpu=_cpu_name(),
        simulator_core=cores.simulator,
        policy_core=cores.policy,
        cores_allowed=len(os.sched_getaffinity(0)),
        load=round(os.getloadavg()[0], 2),
        kernel=platform.release(),
        libc=libc_version(),
        python=platform.python_version(),
        numpy=np.__version__,
        shmbridge=__version__,
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
