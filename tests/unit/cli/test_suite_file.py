"""What a suite's file means, and that its mistakes are found before anything runs, with file, task and key."""

from __future__ import annotations

import pytest

from shmbridge.cli.run_flags import parse
from shmbridge.cli.suite_file import read_suite
from shmbridge.errors import SpecError

TOYS = """
from dataclasses import dataclass

import shmbridge
import shmbridge.testing


@dataclass
class Scene:
    size: int = 64
    open: bool = False
    name: str = ""
    limits: list[float] | None = None


class ToyEnvironment(shmbridge.Environment):
    config_type = Scene
    specs = reset = step = None


@dataclass
class Settings:
    gain: float = 1.0
    fast: bool = False


class ToyPolicy(shmbridge.testing.MarkingPolicy):
    config_type = Settings
"""


@pytest.fixture
def suite(tmp_path):
    """Read a suite: ``suite(text, *words)``; ``TOY`` and ``POLICY`` in the text are an environment and a policy."""
    (tmp_path / "toys.py").write_text(TOYS)

    def read(text, *given):
        toys = f"{tmp_path / 'toys.py'}"
        path = tmp_path / "suite.yaml"
        path.write_text(text.replace("TOY", f"{toys}:ToyEnvironment").replace("POLICY", f"{toys}:ToyPolicy"))
        return read_suite(path, list(given), tmp_path / "out")

    return read


def plans(tasks):
    """Return what ``run`` makes of each task's words."""
    return {task.name: parse(task.words) for task in tasks}


COMMON = "common: {policy_type: POLICY, environment: TOY, num_episodes: 3}\n"


def test_tasks_keep_their_order_and_get_folders_of_their_own(suite, tmp_path):
    tasks = suite(COMMON + "tasks: {b-first: {}, a.second: {}, third:}")
    assert [task.name for task in tasks] == ["b-first", "a.second", "third"]
    assert [plan.args.output_dir for plan in plans(tasks).values()] == [tmp_path / "out" / name for name in ("b-first", "a.second", "third")]


def test_task_overrides_what_is_common_and_the_command_line_overrides_both(suite):
    text = "common: {policy_type: POLICY, environment: TOY, num_episodes: 3, seed: 1, num_envs: 2}\ntasks: {one: {seed: 5}, two: {}}"
    found = plans(suite(text, "--num_envs", "4"))
    assert {name: (plan.args.seed, plan.args.num_envs, plan.args.num_episodes) for name, plan in found.items()} == {"one": (5, 4, 3), "two": (1, 4, 3)}


def test_flags_of_the_environment_are_merged_and_typed(suite):
    text = (
        COMMON.replace("3}", "3, flags: {size: 8, open: true}}")
        + "tasks: {one: {flags: {size: 9, name: '007'}}, two: {flags: {open: false, limits: [1, 2.5]}}}"
    )
    found = {name: plan.environment_config for name, plan in plans(suite(text)).items()}
    assert (found["one"].size, found["one"].open, found["one"].name) == (9, True, "007")
    assert (found["two"].size, found["two"].open, found["two"].limits) == (8, False, [1.0, 2.5])


def test_settings_of_the_policy_are_flags_of_run_too(suite):
    found = plans(suite(COMMON + "tasks: {one: {gain: 0.5, fast: true}, two: {fast: false}}"))
    assert (found["one"].policy_config.gain, found["one"].policy_config.fast) == (0.5, True)
    assert found["two"].policy_config.fast is False


def test_switches_are_given_or_not_and_dashes_mean_underscores(suite):
    found = plans(suite(COMMON + "tasks: {one: {enable-cameras: true, headless: false}, two: {headless: true}}"))
    assert [(plan.args.enable_cameras, plan.args.headless) for plan in found.values()] == [(True, False), (False, True)]


def test_nothing_takes_back_what_is_common(suite):
    text = COMMON.replace("3}", "3, seed: 7, enable_cameras: true, flags: {size: 8}}") + "tasks: {one: {seed: null, enable_cameras: null, flags: {size: null}}}"
    plan = plans(suite(text))["one"]
    assert (plan.args.seed, plan.args.enable_cameras, plan.environment_config.size) == (0, False, 64)


def test_number_of_steps_takes_the_place_of_the_number_of_episodes_at_every_level(suite):
    found = plans(suite(COMMON + "tasks: {one: {num_steps: 50}, two: {}}"))
    assert [(plan.args.num_steps, plan.args.num_episodes) for plan in found.values()] == [(50, None), (None, 3)]
    found = plans(suite(COMMON + "tasks: {one: {num_steps: 50}, two: {}}", "--num_episodes", "9"))
    assert [(plan.args.num_steps, plan.args.num_episodes) for plan in found.values()] == [(None, 9), (None, 9)]


def test_each_host_is_stopped_by_the_last_task_that_uses_it(suite):
    remote = "common: {policy_deployment: remote, environment: TOY, num_episodes: 3, remote_kill_on_exit: true}\n"
    names = "tasks: {one: {}, two: {name: other}, three: {}, four: {name: other, remote_kill_on_exit: false}}"
    assert [plan.args.remote_kill_on_exit for plan in plans(suite(remote + names)).values()] == [False, False, True, True]
    remote = remote.replace(", remote_kill_on_exit: true", "")
    assert [plan.args.remote_kill_on_exit for plan in plans(suite(remote + names)).values()] == [False] * 4
    by_flag = suite(remote + "tasks: {one: {}, two: {}}", "--remote_kill_on_exit")
    assert [plan.args.remote_kill_on_exit for plan in plans(by_flag).values()] == [False, True]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "tasks"),
        ("common: {}", "'tasks:' is missing. A suite has"),
        ("tasks:", "tasks"),
        ("tasks: {}", "no task"),
        ("tasks: [one]", "tasks"),
        ("task: {one: {}}", "task"),
        (COMMON + "tasks: {one: 3}", "task 'one'"),
        (COMMON + "tasks: {a/b: {}}", "'a/b'"),
        (COMMON + "tasks: {.hidden: {}}", r"'\.hidden'"),
        ("common: {policy_type: POLICY, num_episodes: 3}\ntasks: {one: {}}", "task 'one': 'environment' is missing"),
        (COMMON + "tasks: {one: {environment: 3}}", r"task 'one'[\s\S]*environment"),
        (COMMON + "tasks: {one: {environment: no_such}}", r"task 'one'[\s\S]*no_such"),
        (COMMON + "tasks: {one: {flags: [size]}}", r"task 'one'[\s\S]*flags"),
        (COMMON + "tasks: {one: {}, two: {flags: {sise: 3}}}", r"task 'two'[\s\S]*--sise[\s\S]*size"),
        (COMMON + "tasks: {one: {flags: {size: large}}}", r"task 'one'[\s\S]*size"),
        (COMMON + "tasks: {one: {num_episods: 3}}", r"task 'one'[\s\S]*--num_episods[\s\S]*num_episodes"),
        (COMMON + "tasks: {one: {num_envs: 0}}", r"task 'one'[\s\S]*--num_envs"),
        (COMMON + "tasks: {one: {num_envs: two}}", r"task 'one'[\s\S]*--num_envs"),
        (COMMON + "tasks: {one: {seed: 2020-01-01}}", r"task 'one'[\s\S]*seed"),
        (COMMON + "tasks: {one: {flags: {size: 2020-01-01}}}", r"task 'one'[\s\S]*flags[\s\S]*size"),
        (COMMON + "tasks: {one: {output-dir: here}}", r"task 'one'[\s\S]*output_dir"),
        (COMMON.replace("3}", "3, json: true}") + "tasks: {one: {}}", r"common[\s\S]*json"),
        (COMMON + "tasks: {one: {gain: much}}", r"task 'one'[\s\S]*gain"),
        (COMMON + "tasks: {one: {num_steps: 3, num_episodes: 3}}", r"task 'one'[\s\S]*num_steps and"),
    ],
)
def test_mistakes_are_errors_that_name_file_task_and_key(suite, text, said):
    with pytest.raises(SpecError, match=rf"suite\.yaml[\s\S]*{said}"):
        suite(text)


@pytest.mark.parametrize("words", [["--describe"], ["--json"], ["stray"], ["--num_envs", "2", "stray"]], ids=" ".join)
def test_words_that_are_not_for_every_task_are_refused(suite, words):
    with pytest.raises(SpecError, match=words[-1]):
        suite(COMMON + "tasks: {one: {}}", *words)


def test_unknown_flag_of_the_command_line_is_refused_by_name(suite):
    with pytest.raises(SpecError, match=r"--num_env\b[\s\S]*num_envs"):
        suite(COMMON + "tasks: {one: {}}", "--num_env", "2")


def test_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(SpecError, match="nothing"):
        read_suite(tmp_path / "nothing.yaml", [], tmp_path)
