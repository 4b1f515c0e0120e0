"""How the words of ``shmbridge run`` are taken apart."""

from __future__ import annotations

import pytest

from shmbridge.cli.run_flags import environment_place, parse, switches
from shmbridge.errors import SpecError
from shmbridge.testing import MarkingPolicy

POLICY = ["--policy_type", "shmbridge.testing:MarkingPolicy"]
ENVIRONMENT = """
from dataclasses import dataclass

import shmbridge


@dataclass
class Settings:
    size: int = 64
    open: bool = False


class ToyEnvironment(shmbridge.Environment):
    config_type = Settings
    specs = reset = step = None
"""


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text(ENVIRONMENT)
    return f"{path}:ToyEnvironment"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (["--num_steps", "5"], ["toy"]),
        (["--num_steps=5"], ["toy", "--size", "3"]),
        (["--headless"], ["toy"]),
        (["--headless", "--num_envs", "2", "--cameras"], ["toy", "--headless"]),
        (["--gain", "0.5", "--headless"], ["toy", "--num_steps", "3"]),
        (["--gain", "-3"], ["toy"]),
        (["--fast"], ["toy"]),
        (["--fast", "true"], ["toy"]),
        (["--fast", "False", "--gain", "1"], ["toy"]),
        (["--fast", "--gain", "1"], ["toy"]),
        (["--fast=no"], ["toy", "no"]),
        (["--num_steps", "5"], []),
        (["--fast"], []),
        ([], ["toy", "--size"]),
        ([], []),
    ],
)
def test_environment_is_the_first_word_that_is_no_flag_and_no_value(ours, theirs):
    words = [*ours, *theirs]
    assert words[environment_place(words, {"--headless", "--cameras"}, {"--fast"}) :] == theirs


def test_each_side_of_the_environment_gets_its_own_flags(toy):
    plan = parse([*POLICY, "--num_steps", "3", "--seed", "4", toy, "--size", "32", "--open"])
    assert (plan.args.num_steps, plan.args.seed, plan.args.num_envs) == (3, 4, 1)
    assert (plan.environment_config.size, plan.environment_config.open) == (32, True)
    assert plan.environment_given == {"name": toy, "size": 32, "open": True}
    assert plan.policy is MarkingPolicy


def test_defaults_of_an_environment_are_not_among_what_was_given(toy):
    plan = parse([*POLICY, "--num_episodes", "3", toy])
    assert plan.environment_config.size == 64
    assert plan.environment_given == {"name": toy}


def test_remote_deployment_loads_no_policy(toy):
    plan = parse(["--policy_deployment", "remote", "--policy_type", "not.installed:Here", "--num_steps", "1", toy])
    assert (plan.policy, plan.policy_config, plan.policy_given) == (None, None, None)


def test_settings_of_a_remote_policy_are_read_for_comparison(toy, tmp_path):
    (tmp_path / "settings.yaml").write_text("gain: 2\n")
    words = ["--policy_deployment", "remote", "--policy_config_yaml_path", str(tmp_path / "settings.yaml"), "--num_steps", "1", toy]
    assert parse(words).policy_given == {"gain": 2}


@pytest.mark.parametrize("flag", ["--num_steps", "--num_episodes", "--num_envs", "--remote_timeout_ms", "--remote_start_timeout_ms", "--replan_steps"])
@pytest.mark.parametrize("value", ["0", "-1", "some"])
def test_numbers_that_cannot_be_are_wrong_calls_and_named(toy, flag, value, capsys):
    with pytest.raises(SystemExit) as ended:
        parse([*POLICY, flag, value, toy])
    assert ended.value.code == 2
    assert flag in capsys.readouterr().err


def test_seed_may_be_zero_but_not_less(toy):
    assert parse([*POLICY, "--num_steps", "1", "--seed", "0", toy]).args.seed == 0
    with pytest.raises(SystemExit):
        parse([*POLICY, "--num_steps", "1", "--seed", "-1", toy])


def test_misplaced_flag_is_pointed_at_even_with_its_value_attached(toy):
    with pytest.raises(SpecError, match="--num_envs=3 is a flag of run"):
        parse([*POLICY, "--num_steps", "1", toy, "--num_envs=3"])


def test_chunks_are_played_whole_and_refilled_one_by_one_unless_told_otherwise(toy):
    args = parse([*POLICY, "--num_steps", "1", toy]).args
    assert (args.refill, args.replan_steps, args.simulated_latency_steps) == ("empty", None, 0)
    args = parse([*POLICY, "--num_steps", "1", "--refill", "all", "--replan_steps", "8", "--simulated_latency_steps", "2", toy]).args
    assert (args.refill, args.replan_steps, args.simulated_latency_steps) == ("all", 8, 2)


@pytest.mark.parametrize("words", [["--refill", "some"], ["--simulated_latency_steps", "-1"], ["--video", "best"]], ids=" ".join)
def test_values_that_there_are_not_are_wrong_calls(toy, words, capsys):
    with pytest.raises(SystemExit) as ended:
        parse([*POLICY, "--num_steps", "1", *words, toy])
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--record"], ["--video", "all"], ["--video", "failures"], ["--video", "first"]], ids=" ".join)
def test_what_is_kept_needs_a_folder(toy, words, tmp_path):
    with pytest.raises(SpecError, match=f"{words[0]}.*--output_dir"):
        parse([*POLICY, "--num_steps", "1", *words, toy])
    assert parse([*POLICY, "--num_steps", "1", "--output_dir", str(tmp_path), *words, toy]).args.output_dir == tmp_path


def test_no_video_needs_no_folder(toy):
    assert parse([*POLICY, "--num_steps", "1", "--video", "none", toy]).args.video == "none"


def test_description_needs_neither_policy_nor_extent_but_takes_them(toy):
    assert parse(["--describe", "--json", toy, "--size", "8"]).environment_config.size == 8
    plan = parse([*POLICY, "--num_steps", "1", "--num_envs", "3", "--describe", toy])
    assert (plan.args.describe, plan.args.num_envs) == (True, 3)


def test_json_without_description_is_refused(toy):
    with pytest.raises(SpecError, match="--describe"):
        parse([*POLICY, "--num_steps", "1", "--json", toy])


def test_switches_are_the_flags_without_a_value():
    assert {"--headless", "--record", "--describe"} <= switches()
    assert not {"--seed", "--video"} & switches()
