"""What a suite is: several runs in one YAML file.

.. code-block:: yaml

    common:                      # of every task
      policy_type: my_policy     # every key but two is a flag of run
      num_episodes: 20
      environment: simulator     # the one: what to run
      flags: {size: 64}          # the other: the environment's own flags
    tasks:
      drawer-open:               # also the name of its folder
        flags: {task: drawer-open-v3}
      door-close:
        flags: {task: door-close-v3}
        num_episodes: 50         # instead of what is common
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from shmbridge.cli.flags import early, with_underscores
from shmbridge.cli.run_flags import environment_place, parse, switches
from shmbridge.config import read_yaml
from shmbridge.errors import ShmbridgeError, SpecError
from shmbridge.memory.naming import DEFAULT_NAME

OF_THE_SUITE = {
    "output_dir": "each task writes into a folder of its name below the suite's own --output_dir",
    "describe": "a suite runs what it names",
    "json": "a suite writes suite.json",
}
"""Flags of run that no task has, and why."""
EXTENT = ("num_steps", "num_episodes")
"""Whoever gives one of them takes the other back."""
STOP = "remote_kill_on_exit"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_Value = str | int | float | bool | list[Any] | dict[str, Any] | None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    tasks: dict[str, Any]
    common: Any = None


class _Own(msgspec.Struct):
    """The two keys of a task that are no flags of run."""

    environment: str | None = None
    flags: dict[str, Any] | None = None


@dataclass(frozen=True)
class Settings:
    """What one level of the file says, or several levels together.

    Attributes:
        environment: As ``shmbridge run`` takes it; None where nothing is said.
        run: Flags of run by name, without dashes.
        flags: The environment's own, likewise.
    """

    environment: str | None
    run: dict[str, _Value]
    flags: dict[str, _Value]

    def under(self, other: Settings) -> Settings:
        """Return these settings, overridden by others."""
        taken_back = {flag for flag in EXTENT if any(each in other.run for each in EXTENT)}
        run = {key: value for key, value in self.run.items() if key not in taken_back}
        return Settings(other.environment or self.environment, run | other.run, self.flags | other.flags)


@dataclass(frozen=True)
class Task:
    """One run of a suite.

    Attributes:
        name: Also of its folder.
        environment: As ``shmbridge run`` takes it.
        words: What is given to ``shmbridge run``.
    """

    name: str
    environment: str
    words: tuple[str, ...]


def read_suite(path: Path, given: Sequence[str], folder: Path) -> list[Task]:
    """Return the tasks of a suite, in order, each checked as ``shmbridge run`` checks it. Nothing is begun.

    Args:
        path: The file.
        given: Flags of run from the command line. They hold for all tasks, whatever the file says.
        folder: Each task writes into a folder of its name below it.

    Raises:
        SpecError: The file is no suite, or a task cannot be run like this. The text names file, task and key.
    """
    _check_given(given)
    content = _read(path)
    common = _settings(f"{path}: common", content.common)
    tasks = {name: common.under(_settings(f"{path}: task {name!r}", own)) for name, own in content.tasks.items()}
    tasks, given = _stopping_last(tasks, given)
    return [_task(path, name, settings, given, folder) for name, settings in tasks.items()]


def _read(path: Path) -> _File:
    content = read_yaml(path)
    try:
        found = msgspec.convert(content, _File)
    except msgspec.ValidationError as error:
        missing = "'tasks:' is missing" if "tasks" not in content else error
        raise SpecError(f"{path}: {missing}. A suite has 'tasks:', with a name and settings for each, and 'common:', settings of all") from None
    if not found.tasks:
        raise SpecError(f"{path}: there is no task below 'tasks:'")
    return found


def _check_given(given: Sequence[str]) -> None:
    for key, why in OF_THE_SUITE.items():
        if f"--{key}" in given:
            raise SpecError(f"--{key} is a flag of a single run: {why}")
    stray = given[environment_place(given, switches(), set()) :]
    if stray:
        raise SpecError(f"{stray[0]!r} belongs to no flag. What a suite runs, and the environments' own flags, stand in its file")


@contextlib.contextmanager
def _blaming(where: str) -> Iterator[None]:
    """Say where in the file it was that something could not be used."""
    try:
        yield
    except (msgspec.ValidationError, ShmbridgeError) as error:
        raise SpecError(f"{where}: {error}") from None


def _settings(where: str, content: Any) -> Settings:
    with _blaming(where):
        own = msgspec.convert(content or {}, _Own)
        given = msgspec.convert(content or {}, dict[str, Any])
    run = _checked(where, {key: value for key, value in given.items() if key not in _Own.__struct_fields__})
    for key, why in OF_THE_SUITE.items():
        if key in run:
            raise SpecError(f"{where}: {key!r} is not for tasks: {why}")
    return Settings(own.environment, run, _checked(f"{where}: flags", own.flags or {}))


def _checked(where: str, settings: Mapping[str, Any]) -> dict[str, _Value]:
    """Return settings under names with underscores, if each is a text, a number, a truth value, a list or a mapping."""
    found: dict[str, _Value] = {}
    for key, value in settings.items():
        with _blaming(f"{where}: {key!r}"):
            found[key.replace("-", "_")] = msgspec.convert(value, _Value)
    return found


def _stopping_last(tasks: Mapping[str, Settings], given: Sequence[str]) -> tuple[dict[str, Settings], list[str]]:
    """Let a host be stopped by the last task that uses it, if any task wants it stopped: those between still need it."""
    by_all = f"--{STOP}" in given
    hosts = {name: early(given, "--name") or settings.run.get("name") or DEFAULT_NAME for name, settings in tasks.items()}
    stopped = {hosts[name] for name, settings in tasks.items() if by_all or settings.run.get(STOP)}
    last = {hosts[name]: name for name in tasks}
    found = {}
    for name, settings in tasks.items():
        stops = hosts[name] in stopped and last[hosts[name]] == name
        found[name] = Settings(settings.environment, {**settings.run, STOP: stops}, settings.flags)
    return found, [word for word in given if word != f"--{STOP}"]


def _task(path: Path, name: str, settings: Settings, given: Sequence[str], folder: Path) -> Task:
    where = f"{path}: task {name!r}"
    if not _NAME.fullmatch(name):
        raise SpecError(f"{where} must be able to name a folder: use letters, digits, '.', '_' and '-'")
    if settings.environment is None:
        raise SpecError(f"{where}: 'environment' is missing, here and in common; 'shmbridge envs' lists what there is")
    taken_back = [flag for flag in EXTENT if any(early(given, f"--{each}") for each in EXTENT)]
    run = {key: value for key, value in settings.run.items() if key not in taken_back}
    ours = [*_words(run, switches()), *given, f"--output_dir={folder / name}"]
    task = Task(name, settings.environment, (*ours, settings.environment, *_words(settings.flags, set())))
    with _blaming(where):
        _check(task)
    return task


def _words(settings: Mapping[str, _Value], switched: set[str]) -> list[str]:
    """Return settings as flags. Nothing (``null``) is as if it were not there; a switch is there or not."""
    found = []
    for key, value in settings.items():
        if f"--{key}" in switched and isinstance(value, bool):
            found += [f"--{key}"] * value
        elif value is not None:
            found.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")
    return with_underscores(found)


def _check(task: Task) -> None:
    """Raise SpecError if ``shmbridge run`` would refuse a task's words."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            parse(task.words)
    except SystemExit:
        raise SpecError(told.getvalue().strip().rpartition("error: ")[2]) from None
