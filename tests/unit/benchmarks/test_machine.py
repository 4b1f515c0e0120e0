"""Which cores the two sides get."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest

from shmbridge.benchmarks.machine import Cores, choose_cores, describe_machine, numbers_in, threads_beside
from shmbridge.errors import ShmbridgeError


def pairs(core: int) -> set[int]:
    """Return the cores of a machine on which 0 and 1, 2 and 3, and so on, are two threads of one core."""
    return {core & ~1, core | 1}


@pytest.mark.parametrize(
    ("allowed", "beside", "chosen"),
    [
        ({0, 1, 2, 3}, pairs, (0, 2)),
        ({1, 2}, pairs, (1, 2)),
        ({4, 5}, pairs, (4, 5)),
        ({3, 1}, lambda core: {core}, (1, 3)),
    ],
)
def test_two_physical_cores_are_taken_where_there_are_two(allowed: set[int], beside: Callable[[int], set[int]], chosen: tuple[int, int]) -> None:
    assert choose_cores(allowed, beside) == chosen


def test_one_core_is_refused_with_what_to_do_about_it() -> None:
    with pytest.raises(ShmbridgeError, match=r"core 3 alone: allow another one \(taskset -c 3,N"):
        choose_cores({3}, pairs)


@pytest.mark.parametrize(("text", "numbers"), [("0", {0}), ("0-1\n", {0, 1}), ("0,4", {0, 4}), ("1-2,8\n", {1, 2, 8})])
def test_the_kernels_lists_are_understood(text: str, numbers: set[int]) -> None:
    assert numbers_in(text) == numbers


def test_a_core_is_beside_itself_whatever_the_kernel_says() -> None:
    assert 0 in threads_beside(0)
    assert threads_beside(10**6) == {10**6}


def test_the_machine_is_described() -> None:
    found = describe_machine(Cores(4, 7))
    assert (found.simulator_core, found.policy_core) == (4, 7)
    assert found.cores_allowed == len(os.sched_getaffinity(0))
    assert found.numpy == np.__version__
    assert found.cpu
