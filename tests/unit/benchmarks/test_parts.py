"""Where the time of a state-only request goes."""

from __future__ import annotations

import os

import numpy as np
import pytest

from shmbridge.benchmarks import parts
from shmbridge.benchmarks.machine import choose_cores, threads_beside
from shmbridge.benchmarks.parts import building_blocks, stages, stages_of


def test_the_stages_add_up_to_all_of_it() -> None:
    #                    total write wait infer read
    requests = np.array([[100.0, 20, 30, 25, 5]] * 3)
    found = {part.part.partition(" (")[0]: part.ns for part in stages_of(requests, policy=10.0, bare=40.0)}
    assert found["all of it"] == 100.0
    assert found["the policy itself"] == 10.0
    assert found["around the policy: numbers, checks, copying the action in"] == 15.0
    assert found["enter, number, make the reply"] == 20.0
    assert sum(list(found.values())[:-2]) == 100.0
    assert list(found.values())[-1] == 40.0


def test_a_rare_interruption_does_not_show() -> None:
    requests = np.array([[10.0, 2, 3, 2, 1]] * 9 + [[9000.0, 2, 8000, 2, 1]])
    assert stages_of(requests, policy=1.0, bare=5.0)[6].ns == 10.0


def test_every_building_block_takes_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_CALLS", 50)
    found = building_blocks()
    assert len({part.part for part in found}) == len(found)
    assert all(part.ns >= 0 for part in found)
    assert sum(part.ns for part in found) > 0


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the benchmark needs two cores")
def test_real_requests_are_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_SECONDS", 1e-9)
    *some, total, ring = stages(choose_cores(os.sched_getaffinity(0), threads_beside))
    assert sum(part.ns for part in some) == pytest.approx(total.ns, abs=1.0)
    assert ring.ns > 0
