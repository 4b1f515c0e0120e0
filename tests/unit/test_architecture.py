"""The rules that keep the parts apart, enforced on the source as it is installed or checked out."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import PACKAGE

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 400
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
PURE = {"errors", "spec", "layout", "messages", "protocol", "policy", "environment", "chunking", "counters", "version"}
FOLDERS = {"memory": "system", "transport": "transport", "testing": "published", "cli": "command", "benchmarks": "command", "__main__": "command"}
LAYERS = ["pure", "system", "transport", "service", "published", "command"]
NOT_PURE = {"os", "time", "socket", "threading", "mmap", "fcntl", "ctypes", "signal", "select", "selectors", "subprocess", "asyncio", "queue", "logging"}
ONLY_IN = {
    # The matched ring is the yardstick for the library, so it may use nothing of it.
    "posix_ipc": {"memory/posix.py", "benchmarks/matched_ring.py"},
    "mmap": {"memory/posix.py", "benchmarks/matched_ring.py"},
    "ctypes": {"memory/posix.py"},
    "fcntl": {"memory/posix.py"},
    "torch": {"torch_tensors.py"},
}
LAZY = {"yaml": ("config.py",), "rich": ("cli/",), "psutil": ("cli/",), "torch": ("torch_tensors.py",)}
NEVER = {"pickle", "multiprocessing", "gymnasium", "mujoco", "cloudpickle", "dill", "marshal", "shelve"}
"""Not in the library: pickle and its like read what peers send; a simulator is a plug-in's business."""
MODELS = ["gr00t", "groot", "openpi", "pi0", "lerobot", "smolvla", "octo", "openvla", "pixel_bc"]
SIMULATORS = ["metaworld", "meta-world", "sawyer", "pusht", "isaac", "mujoco", "maniskill", "libero", "robosuite"]


class Import(NamedTuple):
    """One import: the module's dotted name, and whether it happens when the importing module is loaded."""

    name: str
    at_load: bool
    line: int


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports_of(path: Path) -> list[Import]:
    return list(_walk(ast.parse(path.read_text(encoding="utf-8")), at_load=True))


def _walk(node: ast.AST, *, at_load: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, at_load, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: write imports absolutely"
            if child.module != "shmbridge":
                yield Import(child.module or "", at_load, child.lineno)
            yield from (Import(f"{child.module}.{alias.name}", at_load, child.lineno) for alias in child.names)
        elif not (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")):
            yield from _walk(child, at_load=at_load and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def layer_of(module: str) -> str:
    """Return the layer of a dotted name below shmbridge."""
    part = module.split(".")[1] if "." in module else ""
    if part in PURE:
        return "pure"
    return FOLDERS.get(part, "service")


def dotted(path: Path) -> str:
    return ".".join(["shmbridge", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


def external(found: Import) -> str:
    return found.name.split(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_dependencies_point_one_way(path: Path) -> None:
    own = layer_of(dotted(path))
    if dotted(path) == "shmbridge":
        return  # it gathers what users see
    for found in imports_of(path):
        if found.name.startswith("shmbridge."):
            other = layer_of(found.name)
            assert LAYERS.index(other) <= LAYERS.index(own), f"{relative(path)}:{found.line}: {own} must not import {found.name} ({other})"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_only_the_package_itself_is_imported_as_a_whole_from_above(path: Path) -> None:
    if layer_of(dotted(path)) in ("published", "command"):
        return
    assert not [found for found in imports_of(path) if found.name == "shmbridge"], "a module of the library imports modules, not the package that gathers them"


@pytest.mark.parametrize("path", [path for path in MODULES if layer_of(dotted(path)) == "pure" and dotted(path) != "shmbridge"], ids=relative)
def test_pure_modules_know_no_operating_system(path: Path) -> None:
    used = {external(found) for found in imports_of(path)} & NOT_PURE
    assert not used, f"{relative(path)} imports {used}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_each_way_to_the_system_has_one_importer(path: Path) -> None:
    for found in imports_of(path):
        allowed = ONLY_IN.get(external(found))
        assert allowed is None or relative(path) in allowed, f"{relative(path)}:{found.line} imports {found.name}; only {allowed} may"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_slow_and_optional_packages_are_imported_where_they_are_used(path: Path) -> None:
    for found in imports_of(path):
        allowed = LAZY.get(external(found))
        if allowed is not None:
            where = f"{relative(path)}:{found.line}"
            assert relative(path).startswith(allowed), f"{where}: {found.name} belongs into {allowed}"
            assert not found.at_load or external(found) == "torch", f"{where}: import {found.name} in the function that uses it"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_the_module_that_needs_torch_is_imported_only_when_asked_for(path: Path) -> None:
    loaded = [found for found in imports_of(path) if found.at_load and found.name.startswith("shmbridge.torch_tensors")]
    assert not loaded or relative(path).startswith("cli/"), f"{relative(path)} loads torch"
    assert not loaded


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_the_library_imports_neither_pickle_nor_a_simulator(path: Path) -> None:
    used = {external(found) for found in imports_of(path)} & NEVER
    assert not used, f"{relative(path)} imports {used}"


def test_what_is_imported_at_load_is_in_the_base_installation() -> None:
    base = {"numpy", "posix_ipc", "msgspec", "shmbridge"}
    for path in MODULES:
        if relative(path) == "torch_tensors.py":
            continue
        foreign = {external(found) for found in imports_of(path) if found.at_load} - set(sys.stdlib_module_names) - base
        assert not foreign, f"{relative(path)} imports {foreign} when loaded"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_the_library_names_no_model_and_no_simulator(path: Path) -> None:
    text = path.read_text(encoding="utf-8").lower()
    named = [word for word in MODELS + SIMULATORS if re.search(rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", text)]
    assert not named, f"{relative(path)} mentions {named}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_no_module_is_too_long_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", [path for path in MODULES if not relative(path).startswith("cli/")], ids=relative)
def test_only_the_command_prints(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    calls = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not calls, f"{relative(path)} prints in lines {calls}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_nothing_relies_on_finalizers(path: Path) -> None:
    assert not [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef) and node.name == "__del__"]


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_the_library_configures_no_logging_and_warns_of_nothing_by_itself(path: Path) -> None:
    if relative(path).startswith("cli/"):
        return
    text = path.read_text(encoding="utf-8")
    assert "basicConfig" not in text
    assert "warnings.warn(" not in text


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_there_is_no_unfinished_business(path: Path) -> None:
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_an_ignore_carries_its_reason(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = re.search(r"# (type: ignore|noqa)\S*(.*)", line)
        assert match is None or "#" in match[2], f"{relative(path)}:{number}: say why"


PLUG_INS = [path for folder in ("policies", "launch/envs") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.skipif(not PLUG_INS, reason="the plug-ins' source is not beside the tests")
def test_plug_ins_see_only_what_users_see() -> None:
    for path in PLUG_INS:
        for found in imports_of(path):
            if found.name.startswith("shmbridge."):
                public = found.name in {f"shmbridge.{name}" for name in _public_names()} or found.name.startswith("shmbridge.torch_tensors")
                assert public, f"{path.relative_to(ROOT)}:{found.line} imports {found.name}; plug-ins write `import shmbridge`"


def _public_names() -> list[str]:
    import shmbridge  # what it offers is the subject here

    return shmbridge.__all__


def test_what_the_package_offers_is_there_and_in_order() -> None:
    import shmbridge  # as above

    assert all(hasattr(shmbridge, name) for name in shmbridge.__all__)
    assert shmbridge.__all__ == sorted(shmbridge.__all__)
    assert len(set(shmbridge.__all__)) == len(shmbridge.__all__)


TESTED_TOGETHER = {
    "host_control.py": "test_host.py",
    "host_guests.py": "test_host.py",
    "host_worker.py": "test_host.py",
    "testing/fakes.py": "test_rollout.py",
    "testing/names.py": "test_host.py",
    "testing/transports.py": "transport/test_shm.py",
}
"""Modules whose tests are those of what they are part of, or of what they serve."""
WITH_MIRROR = [path for path in MODULES if path.name not in ("__init__.py", "__main__.py", "version.py")]


@pytest.mark.parametrize("path", WITH_MIRROR, ids=relative)
def test_each_module_has_its_tests(path: Path) -> None:
    if relative(path) in TESTED_TOGETHER:
        assert (Path(__file__).parent / TESTED_TOGETHER[relative(path)]).is_file()
        return
    mirror = Path(__file__).parent / path.relative_to(PACKAGE).with_name(f"test_{path.name}")
    assert mirror.is_file(), f"{mirror} is missing"
