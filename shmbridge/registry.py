"""Finding policies and environments: by name, by ``package.module:Class``, or by ``path/to/file.py:Class``."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from shmbridge.environment import Environment
from shmbridge.errors import PolicyError, ShmbridgeError, UnknownPolicyError
from shmbridge.policy import Policy
from shmbridge.spec import nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes of one kind by name: those registered by decorator, and those that installed packages announce.

    Args:
        kind: As messages say it, for example ``policy``.
        base: What every class must derive from.
        group: Entry point group, for example ``shmbridge.policies``.
    """

    def __init__(self, kind: str, base: type[T], group: str) -> None:
        self._kind, self._base, self._group = kind, base, group
        self._registered: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Return a class decorator that registers under ``name``.

        Raises:
            PolicyError: Another class has that name.
        """

        def decorate(found: type[T]) -> type[T]:
            before = self._registered.setdefault(name, found)
            if (before.__module__, before.__qualname__) != (found.__module__, found.__qualname__):
                raise PolicyError(f"two {self._kind} classes are called {name!r}: {_place(before)} and {_place(found)}; rename one")
            self._registered[name] = found
            return found

        return decorate

    def names(self) -> dict[str, str]:
        """Return where each known class comes from, by name and in order; nothing is imported for it.

        Raises:
            PolicyError: Two installed packages announce the same name for different classes.
        """
        found = {name: entry.value for name, entry in self._entry_points().items()}
        found |= {name: _place(value) for name, value in self._registered.items()}
        return dict(sorted(found.items()))

    def load(self, name: str) -> type[T]:
        """Return the class that ``name`` means.

        Args:
            name: A registered name, ``package.module:Class`` or ``path/to/file.py:Class``.

        Raises:
            UnknownPolicyError: Nothing goes by that name; the message lists what there is.
            PolicyError: It was found but cannot be imported, or is of another kind.
        """
        if name in self._registered:
            return self._registered[name]
        entry = self._entry_points().get(name)
        if entry is None and ":" not in name:
            raise UnknownPolicyError(self._unknown(name))
        return self._checked(name, *_split(entry.value if entry else name))

    def _checked(self, name: str, module_name: str, class_name: str) -> type[T]:
        module = _import(name, module_name)
        found = getattr(module, class_name, None)
        if found is None:
            classes = [key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, self._base) and value is not self._base]
            raise UnknownPolicyError(f"{module_name} has no {class_name!r}; its {self._kind} classes: {', '.join(classes) or 'none'}")
        if not inspect.isclass(found) or not issubclass(found, self._base):
            raise PolicyError(f"{name} is no {self._kind}: derive it from shmbridge.{self._base.__name__}")
        return found

    def _entry_points(self) -> dict[str, importlib.metadata.EntryPoint]:
        found: dict[str, importlib.metadata.EntryPoint] = {}
        for entry in importlib.metadata.entry_points(group=self._group):
            before = found.setdefault(entry.name, entry)
            if before.value != entry.value:
                raise PolicyError(f"two installed packages announce a {self._kind} {entry.name!r}: {before.value} and {entry.value}; uninstall one")
        return found

    def _unknown(self, name: str) -> str:
        names = self.names()
        listed = ", ".join(names) or "none is installed"
        hint = f"; {found}" if (found := nearest(name, names)) else "."
        return f"no {self._kind} {name!r}{hint} There are: {listed}. A class of your own goes by package.module:Class or path/to/file.py:Class"


def _place(value: type) -> str:
    return f"{value.__module__}:{value.__qualname__}"


def _split(target: str) -> tuple[str, str]:
    module_name, _, class_name = target.rpartition(":")
    if not module_name or not class_name:
        raise UnknownPolicyError(f"{target!r} names no class: expected package.module:Class or path/to/file.py:Class")
    return module_name, class_name


def _import(name: str, module_name: str) -> Any:
    try:
        return _import_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    except ImportError as error:
        missing = f"it needs {error.name!r}, which is not installed in {sys.prefix}" if error.name else str(error)
        raise PolicyError(f"{name} cannot be imported: {missing}") from error
    except ShmbridgeError:
        raise
    except Exception as error:  # a plug-in's file may hold anything
        told = "".join(traceback.format_exception(error)).rstrip()
        raise PolicyError(f"{name} cannot be imported, its own code fails:\n\n{told}") from None


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise UnknownPolicyError(f"there is no file {path}")
    name = f"shmbridge_file_{path.resolve().as_posix().replace('/', '_').replace('.', '_')}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise PolicyError(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


policies: Registry[Policy] = Registry("policy", Policy, "shmbridge.policies")  # type: ignore[type-abstract]  # only subclasses are made
environments: Registry[Environment] = Registry("environment", Environment, "shmbridge.environments")  # type: ignore[type-abstract]  # likewise
register_policy = policies.register
register_environment = environments.register
