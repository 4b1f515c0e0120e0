"""Configuration of policies and environments: from a YAML file, overridden by flags, checked against a typed class."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

from shmbridge.errors import SpecError
from shmbridge.spec import nearest

MAX_DEPTH = 20
_MISSING = re.compile(r"Object missing required field `(\w+)`")
"""What msgspec says of a setting of the outermost level."""


def read_yaml(path: str | Path, what: str = "configuration") -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Args:
        path: Of the file.
        what: What kind of file it is to be, for messages.

    Raises:
        SpecError: The file is missing, is no YAML, or holds something else than a mapping.
    """
    import yaml  # slow to import, and needed by commands only

    where = f"{what} {path}"
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{where} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{where} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{where} is no YAML: {error}") from None
    if loaded is not None and not isinstance(loaded, dict):
        raise SpecError(f"{where} must hold 'key: value' lines, it holds a {type(loaded).__name__}")
    _check_plain(loaded or {}, where)
    return loaded or {}


def _check_plain(value: Any, where: str, depth: int = 0) -> None:
    """Raise SpecError unless all keys are texts and nothing holds itself."""
    if depth > MAX_DEPTH:
        raise SpecError(f"{where} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise SpecError(f"{where}: the key {key!r} is no text; put it in quotes")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_plain(inner, where, depth + 1)


def field_names(config_type: type) -> list[str]:
    """Return the names of a dataclass's or ``msgspec.Struct``'s fields."""
    if dataclasses.is_dataclass(config_type):
        return [field.name for field in dataclasses.fields(config_type)]
    try:
        return [field.name for field in msgspec.structs.fields(config_type)]
    except TypeError:
        raise SpecError(f"config_type {config_type.__name__} must be a dataclass or a msgspec.Struct") from None


def build_config(config_type: type | None, values: Mapping[str, Any], owner: str) -> Any:
    """Return an instance of ``config_type`` made of ``values``, or None where there is neither.

    Args:
        config_type: A dataclass or ``msgspec.Struct``; None where the owner takes no configuration.
        values: By field name. Texts are converted where the field is a number or a truth value.
        owner: Who is configured, for messages.

    Raises:
        SpecError: A key is unknown, one is missing, or a value has the wrong type.
    """
    if config_type is None:
        if values:
            raise SpecError(f"{owner} takes no configuration, but was given {', '.join(sorted(values))}")
        return None
    names = field_names(config_type)
    for key in values:
        if key not in names:
            raise SpecError(f"{owner} has no setting {key!r}{f' ({hint})' if (hint := nearest(key, names)) else ''}. There are: {', '.join(names)}")
    try:
        return msgspec.convert(dict(values), config_type, strict=False)
    except msgspec.ValidationError as error:
        missing = _MISSING.fullmatch(str(error))
        what = "needs `{0}`: give --{0}, or {0}: in the YAML".format(missing[1]) if missing else str(error)
        raise SpecError(f"configuration of {owner}: {what}") from None


def value_from_text(config_type: type, name: str, text: str) -> Any:
    """Return a flag's value for field ``name``: the text itself where the field is one, else what YAML makes of it."""
    import yaml  # as above

    hint = get_type_hints(config_type).get(name)
    is_choice = get_origin(hint) in (Union, UnionType)
    if hint is str or (is_choice and str in get_args(hint)):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def config_digest(values: Mapping[str, Any]) -> str:
    """Return a SHA-256 of the settings that were given (defaults are not), equal for equal settings in any order.

    Both sides can compute it without importing the policy, which the simulator's side could not.
    """
    plain = json.dumps(msgspec.to_builtins(dict(values)), sort_keys=True, default=str)
    return hashlib.sha256(plain.encode()).hexdigest()
