"""What the tests on real containers get: an engine, both images, volumes and names of their own."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the engine, under every import mode of pytest

from boxes import Boxes, readable_copy  # found through the line above
from engine import BUILD_WORDS, ROOT, Engine, find_engine, run  # likewise

_BUILD_SECONDS = 1800.0
_FOUND = pytest.StashKey[tuple[Engine | None, str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FOUND] = find_engine()


def pytest_report_header(config: pytest.Config) -> str:
    engine, why = config.stash[_FOUND]
    return f"container engine: {engine.version if engine else f'none ({why})'}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("containers")
            item.add_marker(pytest.mark.timeout(300, func_only=True))  # building is not part of a test, and has its own deadline


@pytest.fixture(scope="session")
def engine(pytestconfig: pytest.Config) -> Engine:
    """The engine; without one the test is skipped, with the reason."""
    found, why = pytestconfig.stash[_FOUND]
    if found is None:
        pytest.skip(f"no container engine works here: {why}")
    return found


@pytest.fixture(scope="session")
def policy_image(engine: Engine) -> str:
    """The name of the policy's image, built from these sources."""
    return _build(engine, "policy")


@pytest.fixture(scope="session")
def simulator_image(engine: Engine) -> str:
    """The name of the simulator's image, built from these sources."""
    return _build(engine, "simulator")


@pytest.fixture
def unique(engine: Engine) -> Iterator[Callable[[str], str]]:
    """Names that no other test uses: ``unique("host")``. Containers and volumes so called are removed after the test."""
    given: list[str] = []

    def name(kind: str = "x") -> str:
        given.append(f"shmbridge-test-{os.getpid()}-{len(given)}-{kind}")
        return given[-1]

    yield name
    for made in reversed(given):
        engine.remove_container(made)
    for made in given:
        engine.remove_volume(made)


@pytest.fixture
def volume(engine: Engine, unique: Callable[[str], str]) -> str:
    """The name of a fresh tmpfs volume of 512 MiB for /dev/shm: ``--volume NAME:/dev/shm``."""
    name = unique("shm")
    engine.make_volume(name)
    return name


@pytest.fixture
def boxes(engine: Engine, unique: Callable[[str], str], volume: str, policy_image: str, simulator_image: str, tmp_path: Path) -> Boxes:
    """Starts hosts and clients of both images on that volume."""
    return Boxes(engine, unique, volume, (policy_image, simulator_image), readable_copy(tmp_path / "inside"))


def _build(engine: Engine, side: str) -> str:
    image = f"shmbridge-{side}"
    words = shlex.split(os.environ.get(BUILD_WORDS, ""))
    run([ROOT / "docker" / "build.sh", side, "--engine", engine.name, "--image", image, *(["--", *words] if words else [])], timeout=_BUILD_SECONDS)
    return image
