"""Finding classes: by decorator, by entry point, by module and by file."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest
import sample_policies
from sample_policies import Affine

from shmbridge import registry as registry_module
from shmbridge.environment import Environment
from shmbridge.errors import PolicyError, UnknownPolicyError
from shmbridge.policy import Policy
from shmbridge.registry import Registry, environments, policies

Announced = list[importlib.metadata.EntryPoint]
SOURCE = """
import shmbridge
COUNT = globals().get("COUNT", 0) + 1

class FromFile(shmbridge.Policy):
    def specs(self, offered): ...
    def infer(self, session, observation, env_ids): ...

class Another(FromFile): ...

not_a_class = 7
class NoPolicy: ...
"""


@pytest.fixture
def registry() -> Registry[Policy]:
    return Registry("policy", Policy, "shmbridge.test-policies")  # type: ignore[type-abstract]  # only subclasses are made


@pytest.fixture
def announce(monkeypatch: pytest.MonkeyPatch) -> Announced:
    """What installed packages announce, as the test fills it."""
    entries: list[importlib.metadata.EntryPoint] = []
    monkeypatch.setattr(registry_module.importlib.metadata, "entry_points", lambda group: [entry for entry in entries if entry.group == group])
    return entries


def entry(name: str, value: str) -> importlib.metadata.EntryPoint:
    return importlib.metadata.EntryPoint(name, value, "shmbridge.test-policies")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "my-policy.v2.py"
    path.write_text(SOURCE)
    return path


def test_a_decorated_class_is_found_by_its_name(registry: Registry[Policy]) -> None:
    decorated = registry.register("mine")(Affine)
    assert decorated is Affine
    assert registry.load("mine") is Affine
    assert registry.names() == {"mine": "sample_policies:Affine"}


def test_two_classes_of_one_name_are_refused_with_both_places(registry: Registry[Policy]) -> None:
    registry.register("mine")(Affine)
    with pytest.raises(PolicyError, match=r"two policy classes are called 'mine': sample_policies:Affine and sample_policies:Commanded; rename one"):
        registry.register("mine")(sample_policies.Commanded)
    assert registry.load("mine") is Affine


def test_a_module_that_is_imported_again_replaces_its_own_class(registry: Registry[Policy]) -> None:
    registry.register("mine")(Affine)
    again = type("Affine", (Affine,), {"__module__": Affine.__module__, "__qualname__": "Affine"})
    registry.register("mine")(again)
    assert registry.load("mine") is again


def test_a_class_is_found_by_module_and_name(registry: Registry[Policy]) -> None:
    assert registry.load("sample_policies:Affine") is Affine


def test_a_class_is_found_by_file_and_name_and_its_file_is_run_once(registry: Registry[Policy], source: Path) -> None:
    found = registry.load(f"{source}:FromFile")
    assert found.__name__ == "FromFile"
    assert registry.load(f"{source}:FromFile") is found
    assert issubclass(registry.load(f"{source}:Another"), found)


def test_a_file_may_register_its_class_by_decorator_too(tmp_path: Path) -> None:
    path = tmp_path / "decorated.py"
    path.write_text(SOURCE.replace("class FromFile", "@shmbridge.register_policy('from_a_file_of_the_tests')\nclass FromFile"))
    try:
        found = policies.load(f"{path}:FromFile")
        assert policies.load("from_a_file_of_the_tests") is found
    finally:
        policies._registered.pop("from_a_file_of_the_tests", None)


def test_a_file_that_fails_is_run_again_next_time(registry: Registry[Policy], source: Path) -> None:
    source.write_text("raise ValueError('broken')")
    with pytest.raises(PolicyError, match="ValueError: broken"):
        registry.load(f"{source}:FromFile")
    source.write_text(SOURCE)
    assert registry.load(f"{source}:FromFile").__name__ == "FromFile"


def test_an_announced_class_is_found_by_its_name(registry: Registry[Policy], announce: Announced) -> None:
    announce.append(entry("announced", "sample_policies:Affine"))
    assert registry.load("announced") is Affine
    assert registry.names() == {"announced": "sample_policies:Affine"}


def test_listing_imports_nothing(registry: Registry[Policy], announce: Announced) -> None:
    announce.append(entry("heavy", "a_module_that_does_not_exist:Heavy"))
    assert registry.names() == {"heavy": "a_module_that_does_not_exist:Heavy"}


def test_two_packages_that_announce_one_name_are_refused_with_both_places(registry: Registry[Policy], announce: Announced) -> None:
    announce += [entry("mine", "one:P"), entry("mine", "two:P")]
    with pytest.raises(PolicyError, match=r"two installed packages announce a policy 'mine': one:P and two:P; uninstall one"):
        registry.load("mine")


def test_one_class_announced_twice_is_no_conflict(registry: Registry[Policy], announce: Announced) -> None:
    announce += [entry("mine", "sample_policies:Affine"), entry("mine", "sample_policies:Affine")]
    assert registry.load("mine") is Affine


def test_a_missing_dependency_is_named_with_the_environment_that_lacks_it(registry: Registry[Policy], announce: Announced, tmp_path: Path) -> None:
    path = tmp_path / "needs.py"
    path.write_text("import a_package_nobody_has")
    with pytest.raises(PolicyError, match="it needs 'a_package_nobody_has', which is not installed in") as error:
        registry.load(f"{path}:P")
    assert sys.prefix in str(error.value)


def test_an_unknown_name_lists_what_there_is_and_suggests_the_nearest(registry: Registry[Policy]) -> None:
    registry.register("affine")(Affine)
    registry.register("zero")(sample_policies.TakesAll)
    with pytest.raises(UnknownPolicyError, match=r"no policy 'afine'; did you mean 'affine'\? There are: affine, zero\. A class of your own"):
        registry.load("afine")


def test_an_unknown_name_where_there_is_nothing_says_so(registry: Registry[Policy]) -> None:
    with pytest.raises(UnknownPolicyError, match="There are: none is installed"):
        registry.load("anything")


def test_an_unknown_class_lists_those_of_its_module(registry: Registry[Policy], source: Path) -> None:
    with pytest.raises(UnknownPolicyError, match=r"has no 'FromFiel'; its policy classes: FromFile, Another"):
        registry.load(f"{source}:FromFiel")


def test_a_missing_file_is_said(registry: Registry[Policy], tmp_path: Path) -> None:
    with pytest.raises(UnknownPolicyError, match="there is no file"):
        registry.load(f"{tmp_path}/none.py:P")


@pytest.mark.parametrize("name", ["NoPolicy", "not_a_class"])
def test_what_is_no_policy_is_refused(registry: Registry[Policy], source: Path, name: str) -> None:
    with pytest.raises(PolicyError, match=r"is no policy: derive it from shmbridge\.Policy"):
        registry.load(f"{source}:{name}")


@pytest.mark.parametrize("name", [":P", "sample_policies:", ":", "no_such_module_at_all:P", "sample_policies.Affine:"])
def test_a_half_name_is_an_error_of_ours(registry: Registry[Policy], name: str) -> None:
    with pytest.raises(PolicyError):
        registry.load(name)


def test_policies_and_environments_are_registered_apart() -> None:
    assert policies is not environments
    with pytest.raises(PolicyError, match=r"is no environment: derive it from shmbridge\.Environment"):
        environments.load("sample_policies:Affine")
    assert issubclass(Environment, object)
