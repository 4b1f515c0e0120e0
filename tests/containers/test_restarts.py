"""Either container goes, killed or stopped, in any order: what is started again is served again, and no bytes are left.

Twenty rounds; ``SHMBRIDGE_RESTART_ROUNDS`` makes it more or fewer, ``SHMBRIDGE_RESTART_SEED`` other ones.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
from boxes import FILES, WATCHDOG_SECONDS, Box, Boxes
from engine import Engine

ROUNDS = int(os.environ.get("SHMBRIDGE_RESTART_ROUNDS", "20"))
SEED = int(os.environ.get("SHMBRIDGE_RESTART_SEED", "7"))
WAYS = {"killed": ("kill", "--signal", "KILL"), "stopped": ("stop", "-t", "5"), "restarted": ("restart", "-t", "5")}
ORDERS = (("host",), ("client",), ("host", "client"), ("client", "host"))
SEMAPHORES_BYTES = 4 * 4096


class Pair(NamedTuple):
    """A host, a client that plays on and on, and a container that only holds and watches the volume."""

    host: Box
    client: Box
    watcher: Box


@pytest.mark.timeout(1800)
def test_whoever_goes_comes_back_and_no_bytes_are_left(boxes: Boxes) -> None:
    watcher = boxes.watcher()
    assert watcher.shared_memory() == (0, [])
    pair = Pair(boxes.ready_host(), boxes.client("play", "--camera_bytes", "921600"), watcher)
    _until_played(pair, births=1, since=0)
    playing = _until_settled(watcher)
    assert playing[0] > 2 * 921600, f"a session takes no memory: {playing}"
    choice = random.Random(SEED)
    for number in range(1, ROUNDS + 1):
        order, (one, other) = choice.choice(ORDERS), choice.choices(sorted(WAYS), k=2)
        _round(number, pair, dict(zip(order, (one, other), strict=False)), choice.sample(order, len(order)))
        assert _until_settled(watcher) == playing, "something is left beside the new session"
    pair.client.call("stop")
    watcher.until_nothing_but(FILES)
    pair.host.call("stop")
    assert watcher.shared_memory() == (0, [])


def test_both_killed_at_once_with_nobody_to_hold_the_volume(boxes: Boxes, engine: Engine) -> None:
    host, client = boxes.ready_host(), boxes.client("play")
    client.until_told("answered")
    engine.call("kill", "--signal", "KILL", host.name, client.name)
    assert (host.wait(), client.wait()) == (137, 137)
    client.call("start")  # which waits for its host
    host.call("start")
    assert client.until_told("answered", 2)["born"] == _births(host)[1]


def test_crashed_host_is_started_again_by_the_engine_and_serves_the_client_that_waits(boxes: Boxes) -> None:
    host = boxes.ready_host(options=(*boxes.shared, "--restart=on-failure:3"))
    answered = boxes.client("crash").ended()
    assert (answered["event"], answered["status"], answered["born"]) == ("answered", 0, _births(host)[1]), answered
    host.until_nothing_but(FILES)


@pytest.mark.parametrize(("way", "why"), [("restarted", "this /dev/shm has no hosts at all"), ("killed", "its host is dead")], ids=["restarted", "killed"])
def test_client_that_joined_the_hosts_ipc_namespace_finds_a_new_host_only_when_it_is_restarted_too(boxes: Boxes, way: str, why: str) -> None:
    """What docker/compose.ipc.yaml sets up, by hand: no volume, but the memory of the host's container, which ends with it."""
    host = boxes.ready_host(options=("--ipc=shareable", "--shm-size=64m"))
    client = boxes.client("play", "--start_timeout", "3", options=(f"--ipc=container:{host.name}",))
    pair = Pair(host, client, watcher=host)
    _until_played(pair, births=1, since=0)
    host.call(*WAYS[way])
    if way == "killed":
        host.wait()
        host.call("start")
    host.until_said("is ready", 2)
    lost = client.ended()
    assert (lost["event"], lost["type"], lost["status"]) == ("error", "HostNotFoundError", 1) and why in lost["text"], lost
    told = len(client.events)
    client.call("start")
    _until_played(pair, births=2, since=told)


def _round(number: int, pair: Pair, ends: dict[str, str], order: Sequence[str]) -> None:
    """End one or both, one after the other; start them again in ``order``; wait until they play with each other."""
    told, births = len(pair.client.events), len(_births(pair.host)) + ("host" in ends)
    for name, way in ends.items():
        box: Box = getattr(pair, name)
        box.call(*WAYS[way])
        if way != "restarted":
            box.wait()
    if set(ends) == {"host", "client"} and "restarted" not in ends.values():
        used, names = pair.watcher.shared_memory()
        assert used <= SEMAPHORES_BYTES, f"two dead containers hold {used} bytes: {names}"
    begun = time.monotonic()
    for name in order:
        if ends[name] != "restarted":
            getattr(pair, name).call("start")
    _until_played(pair, births=births, since=told)
    done = " and ".join(f"{name} {way}" for name, way in ends.items())
    print(f"round {number}: {done}; back {time.monotonic() - begun:.1f} s after the engine was asked")


def _until_played(pair: Pair, *, births: int, since: int) -> None:
    """Wait until the client played with the host of so many births, after the first ``since`` events. The client itself checks every answer."""
    pair.host.until_said("born ", births)
    born = _births(pair.host)[-1]
    _until(lambda: [each["born"] for each in pair.client.events[since:]][-1:] == [born], lambda: pair.client.logs + pair.host.logs)


def _until_settled(watcher: Box) -> tuple[int, list[str]]:
    """Return what is used, once no client is just attaching."""
    _until(lambda: watcher.shared_memory()[1] == FILES, lambda: str(watcher.shared_memory()))
    return watcher.shared_memory()


def _births(host: Box) -> list[float]:
    """Return when the policies of all starts of a host were made, as they tell in each answer too."""
    return [float(line.split()[1]) for line in host.logs.splitlines() if line.startswith("born ")]


def _until(look: Callable[[], bool], explain: Callable[[], str]) -> None:
    end = time.monotonic() + WATCHDOG_SECONDS
    while not look():
        assert time.monotonic() < end, explain()
        time.sleep(0.1)
