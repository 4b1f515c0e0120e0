"""The format of a launch file: which programs there are, and in which environment each runs. Reads and checks; starts nothing."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from shmbridge.cli import COMMANDS
from shmbridge.config import field_names, read_yaml
from shmbridge.errors import SpecError
from shmbridge.memory.naming import DEFAULT_NAME, check_name
from shmbridge.spec import nearest

OWN_LABEL = "launch"
"""Stands before the lines of ``shmbridge launch`` itself, so no program may be called so."""
HERE, FOLDER = "here", "folder"
"""What ``${…}`` knows besides the file's values: the folder of the file, and the working folder of the program."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_REFERENCE = re.compile(r"(\$?)\$\{([^}]*)(\}?)")
_FORM = "a launch file holds 'programs', by name, and if you like 'values', by name: texts and numbers"
_ENTRY_FORM = 'texts and numbers are taken; put in quotes what YAML takes for something else, as in "true"'

_Scalar = str | int | float
_Decoded = TypeVar("_Decoded")


class _File(msgspec.Struct):
    programs: dict[str, Any]
    values: dict[str, _Scalar] = {}


class _Entry(msgspec.Struct):
    venv: str | None = None
    python: str | None = None
    folder: str | None = None
    variables: dict[str, _Scalar] = {}
    shmbridge: str | list[_Scalar] | None = None
    script: str | list[_Scalar] | None = None
    serves: str | None = None


@dataclasses.dataclass(frozen=True)
class Program:
    """One program of a launch file, with all that is needed to start it.

    Attributes:
        label: Its name in the file, which stands before each line that it prints.
        argv: The whole command, the interpreter first.
        words: What follows ``shmbridge``, for example ``("serve", "--name", "demo")``; empty for a script.
        python: The interpreter.
        venv: Its virtual environment, where the file names one.
        own_python: Whether the file names its environment; else it shares that of ``launch``.
        folder: Its working folder, made when it starts.
        variables: Environment variables that the file gives it.
        serves: Name of the host that it is; None for a runner.
    """

    label: str
    argv: tuple[str, ...]
    words: tuple[str, ...]
    python: Path
    venv: Path | None
    own_python: bool
    folder: Path
    variables: Mapping[str, str]
    serves: str | None


@dataclasses.dataclass(frozen=True)
class LaunchFile:
    """What a launch file says, checked.

    Attributes:
        path: Of the file.
        programs: In the file's order.
    """

    path: Path
    programs: tuple[Program, ...]

    @property
    def hosts(self) -> tuple[Program, ...]:
        """Those that serve. They are started first."""
        return tuple(program for program in self.programs if program.serves is not None)

    @property
    def runners(self) -> tuple[Program, ...]:
        """All others. They are started when every host is ready."""
        return tuple(program for program in self.programs if program.serves is None)


def read_launch_file(path: Path, values: Mapping[str, str]) -> LaunchFile:
    """Return what a launch file says.

    Args:
        path: Of the file. Paths in it are relative to its folder.
        values: What ``${name}`` is to stand for, instead of what the file says.

    Raises:
        SpecError: The file cannot be read, or says what cannot be; names the file, the program and the key. Whether environments
            exist is not looked at.
    """
    path = Path(path)
    found = _decode(_File, read_yaml(path, "launch file"), f"{path}", _FORM)
    if not found.programs:
        raise SpecError(f"{path}: 'programs' is empty; name at least one program to start")
    known = _merged(found.values, values, f"{path}")
    here = path.parent.resolve()
    programs = tuple(_program(label, raw, known, here, f"{path}: program {label!r}") for label, raw in found.programs.items())
    _refuse_twins(programs, f"{path}")
    return LaunchFile(path, programs)


def expand(text: str, values: Mapping[str, str], where: str) -> str:
    """Return ``text`` with each ``${name}`` replaced by its value; ``$${`` stands for ``${`` itself.

    Raises:
        SpecError: There is no such value, or the brace is not closed.
    """

    def one(match: re.Match[str]) -> str:
        escaped, name, closed = match.groups()
        if escaped:
            return match[0][1:]
        if not closed:
            raise SpecError(f"{where}: {text!r} lacks a '}}' after '${{'; to mean the text itself, write '$${{'")
        if name not in values:
            raise SpecError(f"{where}: there is no value {name!r}{_hint(name, values)}. Known here are: {', '.join(values)}")
        return values[name]

    return _REFERENCE.sub(one, text)


def flag_value(words: Sequence[str], flag: str) -> str | None:
    """Return the value of a flag, or None; of one that is given twice the last counts, as for argparse."""
    value = None
    for word, after in zip(words, [*words[1:], None], strict=False):
        name, joined, text = word.partition("=")
        if name == flag:
            value = text if joined else after
    return value


def _program(label: str, raw: Any, values: Mapping[str, str], here: Path, where: str) -> Program:
    if label == OWN_LABEL or not _LABEL.fullmatch(label):
        raise SpecError(f"{where}: a program's name is at most 32 letters, digits, '_', '.' and '-', and not {OWN_LABEL!r}")
    entry = _decode(_Entry, raw, where, _ENTRY_FORM)
    values = {**values, HERE: str(here)}
    folder = Path.cwd() if entry.folder is None else _path(entry.folder, values, here, f"{where}, folder")
    values[FOLDER] = str(folder)
    venv = None if entry.venv is None else _path(entry.venv, values, here, f"{where}, venv")
    python = _interpreter(entry, venv, values, here, where)
    words, script = _commands(entry, values, where)
    return Program(
        label=label,
        argv=(str(python), *(("-m", "shmbridge", *words) if words else script)),
        words=words,
        python=python,
        venv=venv,
        own_python=entry.venv is not None or entry.python is not None,
        folder=folder,
        variables=_variables(entry, values, where),
        serves=_serves(entry, words, values, where),
    )


def _interpreter(entry: _Entry, venv: Path | None, values: Mapping[str, str], here: Path, where: str) -> Path:
    if venv is not None and entry.python is not None:
        raise SpecError(f"{where}: 'venv' and 'python' both say which interpreter to take; give one of them")
    if venv is not None:
        return venv / "bin" / "python"
    return Path(sys.executable) if entry.python is None else _path(entry.python, values, here, f"{where}, python")


def _commands(entry: _Entry, values: Mapping[str, str], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the words after ``shmbridge`` and those of a script; exactly one of them is there."""
    if (entry.shmbridge is None) == (entry.script is None):
        raise SpecError(f"{where}: say exactly one of 'shmbridge' (the words of a command of shmbridge) and 'script' (the words after python)")
    if entry.script is not None:
        return (), _words(entry.script, values, f"{where}, script")
    words = _words(entry.shmbridge or "", values, f"{where}, shmbridge")
    if words[0] not in COMMANDS:
        raise SpecError(f"{where}, shmbridge: there is no command {words[0]!r}{_hint(words[0], COMMANDS)}. There are: {', '.join(COMMANDS)}")
    return words, ()


def _words(given: str | list[_Scalar], values: Mapping[str, str], where: str) -> tuple[str, ...]:
    # Split first: a value with blanks in it stays one word.
    try:
        split = shlex.split(given) if isinstance(given, str) else [str(word) for word in given]
    except ValueError as error:
        raise SpecError(f"{where}: {given!r} cannot be split into words: {error}") from None
    if not split:
        raise SpecError(f"{where}: there are no words")
    return tuple(_text(word, values, where) for word in split)


def _variables(entry: _Entry, values: Mapping[str, str], where: str) -> dict[str, str]:
    for name in entry.variables:
        if not _NAME.fullmatch(name):
            raise SpecError(f"{where}, variables: {name!r} cannot name an environment variable")
    return {name: _text(str(value), values, f"{where}, variables, {name}") for name, value in entry.variables.items()}


def _serves(entry: _Entry, words: tuple[str, ...], values: Mapping[str, str], where: str) -> str | None:
    if words and entry.serves is not None:
        raise SpecError(f"{where}: 'serves' is for scripts; a 'serve' command says its name with --name, and no other command serves")
    if words:
        name, where = _served_by(words), f"{where}, shmbridge"
    else:
        where = f"{where}, serves"
        name = None if entry.serves is None else _text(entry.serves, values, where)
    try:
        return None if name is None else check_name(name)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


def _served_by(words: tuple[str, ...]) -> str | None:
    if words[0] != "serve":
        return None
    name = flag_value(words, "--name")
    return DEFAULT_NAME if name is None else name


def _path(text: str, values: Mapping[str, str], here: Path, where: str) -> Path:
    # Not resolved: the interpreter of a virtual environment is a link, and only by its own path does it find its packages.
    return Path(os.path.normpath(here / Path(_text(text, values, where)).expanduser()))


def _text(text: str, values: Mapping[str, str], where: str) -> str:
    expanded = expand(text, values, where)
    if "\0" in expanded:
        raise SpecError(f"{where}: {expanded!r} holds a NUL, which no command can be given")
    return expanded


def _merged(declared: Mapping[str, _Scalar], given: Mapping[str, str], where: str) -> dict[str, str]:
    """Return the file's values, with those given in their place."""
    for name in declared:
        if not _NAME.fullmatch(name) or name in (HERE, FOLDER):
            raise SpecError(f"{where}, values: {name!r} cannot name a value: take letters, digits and '_', and neither {HERE!r} nor {FOLDER!r}")
    for name in given:
        if name not in declared:
            there = f"There are: {', '.join(declared)}" if declared else "It has none"
            raise SpecError(f"{where} has no value {name!r} to set{_hint(name, declared)}. {there}")
    return {name: str(value) for name, value in {**declared, **given}.items()}


def _refuse_twins(programs: tuple[Program, ...], where: str) -> None:
    served: dict[str, str] = {}
    for program in programs:
        if program.serves is not None and (other := served.setdefault(program.serves, program.label)) != program.label:
            raise SpecError(f"{where}: programs {other!r} and {program.label!r} both serve as {program.serves!r}; give one of them another --name")


def _decode(kind: type[_Decoded], raw: Any, where: str, form: str) -> _Decoded:
    names = field_names(kind)
    for key in raw if isinstance(raw, dict) else ():
        if key not in names:
            raise SpecError(f"{where}: there is no key {key!r}{_hint(key, names)}. There are: {', '.join(names)}")
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise SpecError(f"{where}: {error}; {form}") from None


def _hint(name: str, names: Mapping[str, object] | list[str]) -> str:
    return f" ({found})" if (found := nearest(name, names)) else ""
