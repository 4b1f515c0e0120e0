"""The install script and the health check, as far as they go without an engine and without a network."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from shmbridge_launch.bootstrapping import demo, torch_cpu
from shmbridge_launch.bootstrapping.project import PACKAGES, Project

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
INSTALL = (DOCKER / "install.sh").read_text()
SIDES = ("policy", "simulator")


def install(*words: object, script: Path = DOCKER / "install.sh", path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run install.sh; ``path`` is a folder of commands that come first."""
    env = {**os.environ, "PATH": os.pathsep.join([*([str(path)] if path else []), os.environ["PATH"]])}
    return subprocess.run(["bash", script, *map(str, words)], capture_output=True, text=True, check=False, timeout=120, env=env)


def program(path: Path, text: str) -> Path:
    """Write a command."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """This Python, but for its pip: that one notes what it is asked, knows two packages, and cannot install ``flash-attn``."""
    text = f"""
        [[ "$1 $2" == "-m pip" ]] || exec {sys.executable} "$@"
        case "$*" in
            *" list "*) printf '%s\\n' numpy==1.26.4 'odd==not a version' pip==1.0 shmbridge==0.0.1 ;;
            *" install "*)
                echo "$*" >>{tmp_path}/asked
                for word; do [[ $word != */kept ]] || cp "$word" {tmp_path}/kept; done
                [[ "$*" != *flash-attn* ]] || {{ echo 'ERROR: no compiler' >&2; exit 1; }} ;;
            *" check") [[ ! -e {tmp_path}/asked ]] || echo 'other 1.0 requires numpy<1' ;;
        esac"""
    return program(tmp_path / "foreign" / "python.sh", text)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((), 2, "--group must be base, policy or simulator, not ''"),
        (("--group", "gpu"), 2, "not 'gpu'"),
        (("--group",), 2, "--group needs a value"),
        (("--groups", "base"), 2, "unknown flag: --groups"),
        (("base",), 2, "unknown flag: base"),
        (("--group", "base", "--with", "ffmpeg,teapot"), 2, "not 'teapot'"),
        (("--group", "base", "--only", "some"), 2, "not 'some'"),
        (("--group", "base", "--torch", "torch"), 2, "--torch is for --group policy"),
        (("--group", "base", "--python", "a", "--venv", "b"), 2, "exclude each other"),
        (("--group=base", "--wheel=/no/such.whl"), 1, "no file /no/such.whl"),
        (("--group", "base", "--constraints", "/no/such.txt"), 1, "cannot read /no/such.txt"),
        (("--group", "base", "--python", "/no/such/python"), 1, "no Python at /no/such/python"),
        (("--group", "base", "--python", "/bin/false"), 1, "/bin/false does not run, or is not Python 3.10 to 3.13"),
    ],
)
def test_a_wrong_flag_is_named(words: tuple[str, ...], status: int, said: str) -> None:
    finished = install(*words)
    assert (finished.returncode, finished.stdout) == (status, "")
    assert said in finished.stderr


def test_the_help_names_every_flag_and_every_part() -> None:
    text = install("--help").stdout
    flags = set(re.findall(r"--[a-z]+(?= \||\))", INSTALL.partition("take()")[0]))
    assert len(flags) == 10
    parts = re.findall(r"\[([a-z-]+)\]=", "".join(re.findall(r"-rA part_\w+=\((.*)\)", INSTALL)))
    assert all(word in text for word in [*flags, *parts])


def test_a_script_that_was_copied_away_from_its_sources_asks_for_a_wheel(tmp_path: Path) -> None:
    folder = tmp_path / "copied"
    folder.mkdir()
    (folder / "install.sh").write_text(INSTALL)
    finished = install("--group", "base", script=folder / "install.sh")
    assert finished.returncode == 1
    assert "give --wheel FILE" in finished.stderr


def test_what_a_foreign_python_has_is_kept_and_a_part_that_fails_fails_nothing(python: Path, tmp_path: Path) -> None:
    finished = install("--group", "base", "--python", python, "--with", "ffmpeg flash-attn")
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "kept").read_text() == "numpy==1.26.4\n"
    project, *parts = (tmp_path / "asked").read_text().splitlines()
    assert project.endswith("/source")
    assert [line.rpartition("/kept ")[2] for line in parts] == ["imageio-ffmpeg", "--no-build-isolation flash-attn"]
    assert finished.stderr.splitlines()[-2:] == ["install.sh: installed: base ffmpeg", "install.sh: left out: flash-attn (ERROR: no compiler)"]
    assert "warning: pip check says now: other 1.0 requires numpy<1" in finished.stderr


PIPS_OWN_LAST_WORDS = ["error: metadata-generation-failed", "× Encountered error while generating package metadata.", "hint: See above for details."]


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (["  |   ModuleNotFoundError: No module named 'torch'", "      [end of output]", *PIPS_OWN_LAST_WORDS], "ModuleNotFoundError: No module named 'torch'"),
        (["OSError: first", "      RuntimeError: then", *PIPS_OWN_LAST_WORDS], "RuntimeError: then"),
        (["ERROR: no such version", "hint: none"], "ERROR: no such version"),
        (["it went wrong", "in some way"], "in some way"),
    ],
)
def test_a_part_that_is_left_out_is_told_of_by_the_line_that_says_most(tmp_path: Path, log: list[str], reason: str) -> None:
    (tmp_path / "log").write_text("\n".join([*log, ""]))
    program(tmp_path / "bin" / "apt-get", f"cat {tmp_path}/log; exit 1")
    finished = install("--only", "libraries", "--group", "base", "--with", "egl", path=tmp_path / "bin")
    assert finished.stderr.splitlines()[-1] == f"install.sh: left out: egl ({reason})"


def test_a_wheel_is_installed_with_the_extras_of_its_group(python: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "shmbridge-1-py3-none-any.whl"
    wheel.touch()
    assert install("--group", "simulator", "--python", python, "--wheel", wheel).returncode == 0
    assert (tmp_path / "asked").read_text().endswith(f"{wheel}[metaworld,video,cli]\n")


def test_the_chosen_torch_comes_first_and_nothing_but_the_dependencies_is_installed_when_asked(python: Path, tmp_path: Path) -> None:
    finished = install("--group", "policy", "--python", python, "--torch", "torch==2.8.0 --index-url there", "--only", "dependencies")
    assert finished.returncode == 0, finished.stderr
    torch, rest = (tmp_path / "asked").read_text().splitlines()
    assert torch.endswith(" torch==2.8.0 --index-url there")
    assert rest.endswith("/requirements")
    assert all(f"{name} " in finished.stderr for name in ("numpy>=1.22", "safetensors"))


def test_nothing_temporary_stays(python: Path, tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    subprocess.run(
        ["bash", DOCKER / "install.sh", "--group", "base", "--python", python], check=True, capture_output=True, env={**os.environ, "TMPDIR": str(folder)}
    )
    assert list(folder.iterdir()) == []


def test_libraries_that_cannot_be_had_are_an_error_but_optional_ones_are_left_out(tmp_path: Path) -> None:
    program(tmp_path / "bin" / "apt-get", 'echo "E: Unable to locate package ${*: -1}" >&2; [[ "$*" != *install* ]]')
    finished = install("--only", "libraries", "--group", "base", "--with", "egl", path=tmp_path / "bin")
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.splitlines()[-1] == "install.sh: left out: egl (E: Unable to locate package libgl1)"
    finished = install("--only", "libraries", "--group", "simulator", path=tmp_path / "bin")
    assert finished.returncode == 1
    assert "apt-get cannot install libosmesa6" in finished.stderr


def test_groups_and_torch_are_those_of_the_demo() -> None:
    extras = dict(re.findall(r'\[(\w+)\]="([\w,]*)"', re.search(r"-rA extras=\((.*)\)", INSTALL)[1]))  # type: ignore[index]  # it is there
    project = Project(ROOT)
    assert tuple(project.requirements(*extras["policy"].split(","))) == demo.policy_recipe(project).requirements
    assert tuple(project.requirements(*extras["simulator"].split(","))) == demo.simulator_recipe(project).requirements
    assert f'torch_cpu="{torch_cpu.PINNED}"' in INSTALL


@pytest.mark.parametrize("side", SIDES)
def test_every_requirement_of_an_image_is_pinned_for_every_python(side: str) -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    project = Project(ROOT)
    pins: dict[str, list[str]] = {}
    recipe = demo.policy_recipe(project) if side == "policy" else demo.simulator_recipe(project)
    for line in (DOCKER / f"constraints-{side}.txt").read_text().splitlines():
        if not line.startswith("#"):
            assert re.fullmatch(r'[\w.-]+==[\w.]+(; python_version (<|>=) "3\.11")?', line)
            pins.setdefault(re.split("==", line)[0].lower().replace("_", "-"), []).append(line.partition("; ")[2])
    for requirement in recipe.requirements:
        name = re.split("[>=<]", requirement)[0].lower().replace("_", "-")
        assert name == "torch" or pins[name] in ([""], ['python_version >= "3.11"', 'python_version < "3.11"'])


@pytest.mark.parametrize("side", SIDES)
def test_a_dockerfile_copies_all_that_the_wheel_is_made_of_and_the_context_has_it(side: str) -> None:
    text = (DOCKER / f"{side}.Dockerfile").read_text()
    copied = {word.rstrip("/") for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for word in line.split()}
    needed = {*PACKAGES, "setup.cfg", "pyproject.toml", "README.md", "LICENSE"}
    assert needed <= copied
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    assert {word.partition("/")[0] for word in copied} <= {line[1:] for line in ignored if line.startswith("!")}


@pytest.mark.parametrize("side", SIDES)
def test_the_default_command_of_an_image_is_a_half_of_the_demo(side: str) -> None:
    text = (DOCKER / f"{side}.Dockerfile").read_text().replace("\\\n", "")
    words = ast.literal_eval(re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)[-1])
    halves = {"policy": ["serve", "--policy_type", "pixel_bc"], "simulator": ["run", "--num_episodes", "20", "--enable_cameras", "drawer-open-v3"]}
    assert set(halves[side]) <= set(words)
    assert words[words.index("--name") + 1] == "default"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["shmbridge", "serve", "--name", "mine"], "mine"),
        (["/bin/init", "--", "shmbridge", "serve", "--name=mine", "--policy_type", "zero"], "mine"),
        (["python", "-m", "shmbridge", "serve", "--name", "first", "--name", "second"], "second"),
        (["shmbridge", "serve", "--policy_type", "zero"], "default"),
    ],
)
def test_the_health_check_asks_for_the_host_that_the_container_was_started_with(words: list[str], name: str, tmp_path: Path) -> None:
    (tmp_path / "cmdline").write_bytes("".join(f"{word}\0" for word in words).encode())
    program(tmp_path / "bin" / "shmbridge", 'echo "$*"; exit 1')
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    finished = subprocess.run(["bash", DOCKER / "healthcheck.sh", tmp_path / "cmdline"], capture_output=True, text=True, check=False, timeout=60, env=env)
    assert (finished.returncode, finished.stdout) == (1, f"ls --name {name}\n")


@pytest.fixture
def words_of_pip() -> ModuleType:
    """The script of CI that hands pip's configuration to a build."""
    spec = importlib.util.spec_from_file_location("pip_words", ROOT / ".ci" / "pip_words.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_variables_go_before_files_in_pips_configuration_and_unknown_options_are_left_out(words_of_pip: ModuleType) -> None:
    listing = (
        ":env:.find-links='/a'\nglobal.find-links='/b'\nglobal.extra-index-url='\\nfile:///c/simple\\nfile:///d/simple'\nglobal.break-system-packages='1'\n"
    )
    assert words_of_pip.parse(listing) == {"find-links": "/a", "extra-index-url": "\nfile:///c/simple\nfile:///d/simple"}


def test_what_pips_configuration_names_on_this_machine_is_mounted_once(words_of_pip: ModuleType, tmp_path: Path) -> None:
    for folder in ("index/simple", "wheels"):
        (tmp_path / folder).mkdir(parents=True)
    options = {"index-url": f"file://{tmp_path}/index/simple", "find-links": f"{tmp_path}/wheels {tmp_path}/wheels", "proxy": str(tmp_path), "cert": "/no/such"}
    assert words_of_pip.local_paths({**options, "extra-index-url": "there://example.invalid/simple"}) == [tmp_path / "index", tmp_path / "wheels"]
