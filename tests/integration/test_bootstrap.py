"""Setting up: which machines are refused, what the bootstrap relies on, and how it ends what it started."""

from __future__ import annotations

import argparse
import ast
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmbridge.cli.launch import values_from_flags
from shmbridge.cli.launch_file import LaunchFile, read_launch_file
from shmbridge_launch import bootstrap
from shmbridge_launch.bootstrapping import bench, containers, demo, rendering, torch_cpu, venvs
from shmbridge_launch.bootstrapping.programs import Finished, Programs, SetupError, SignalledError
from shmbridge_launch.bootstrapping.project import Project

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "launch" / "bootstrapping").glob("*.py"))
GOOD = ((3, 11, 7), "CPython", "linux", "x86_64", 64, "glibc 2.36")
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(100)"


@pytest.fixture
def programs() -> Iterator[Programs]:
    with Programs() as programs:
        yield programs


def test_a_supported_machine_has_no_obstacles() -> None:
    assert bootstrap.obstacles(*GOOD) == []


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (0, (3, 9, 1), "CPython 3.9"),
        (0, (3, 14, 0), "CPython 3.14"),
        (0, (2, 7, 18), "CPython 2.7"),
        (1, "PyPy", "PyPy 3.11"),
        (2, "darwin", "darwin; needed is Linux"),
        (3, "riscv64", "riscv64"),
        (4, 32, "32-bit"),
        (5, "not glibc", "needed is glibc"),
    ],
)
def test_an_unsupported_machine_is_told_what_was_found(place: int, value: object, said: str) -> None:
    facts = [*GOOD[:place], value, *GOOD[place + 1 :]]
    (text,) = bootstrap.obstacles(*facts)
    assert said in text
    assert "needed is" in text


def test_an_old_python_can_read_the_file_that_refuses_it() -> None:
    ast.parse((ROOT / "launch" / "bootstrap.py").read_text(), feature_version=(3, 4))


@pytest.mark.parametrize("path", [ROOT / "launch" / "bootstrap.py", *SOURCES], ids=lambda path: path.name)
def test_the_bootstrap_needs_the_standard_library_only(path: Path) -> None:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).partition(".")[0])
    assert found <= sys.stdlib_module_names | {"bootstrapping"}


def test_the_help_names_every_command() -> None:
    result = subprocess.run([sys.executable, ROOT / "launch" / "bootstrap.py", "--help"], capture_output=True, text=True, check=True, timeout=60)
    assert all(f"  {command} " in result.stdout for command in ("demo", "test", "containers", "bench", "check", "wheel"))


def test_a_digest_follows_contents_names_and_removals_but_not_caches(tmp_path: Path) -> None:
    source = tmp_path / "shmbridge" / "a.py"
    source.parent.mkdir()
    source.write_text("1")
    digests = [Project(tmp_path).digest()]
    (source.parent / "__pycache__").mkdir()
    (source.parent / "__pycache__" / "a.pyc").write_text("x")
    assert Project(tmp_path).digest() == digests[0]
    source.write_text("2")
    digests.append(Project(tmp_path).digest())
    source.rename(source.with_name("b.py"))
    digests.append(Project(tmp_path).digest())
    source.with_name("b.py").unlink()
    digests.append(Project(tmp_path).digest())
    assert len(set(digests)) == len(digests)


def test_the_simulators_side_has_no_torch_and_the_policys_no_simulator() -> None:
    simulator, policy = Project(ROOT).requirements("metaworld", "video", "cli"), Project(ROOT).requirements("pixel_bc", "cli")
    assert "mujoco==3.3.0" in simulator
    assert "torch" not in simulator
    assert "torch" in policy
    assert not any("mujoco" in text or "metaworld" in text for text in policy)


def test_the_benchmark_is_measured_with_the_base_install_and_gets_the_flags_after_the_dashes() -> None:
    recipe = bench.recipe(Project(ROOT))
    assert not recipe.torch
    assert not any(name in text for text in recipe.requirements for name in ("torch", "mujoco", "metaworld"))
    parser = argparse.ArgumentParser()
    bench.add_flags(parser)
    words = parser.parse_args(["--", "--scenario", "state", "--json"]).bench_words
    assert bench.bench_command(Path("python"), words)[3:] == ["bench", "--scenario", "state", "--json"]


def test_the_container_tests_run_without_what_they_test() -> None:
    assert not any(name in text for text in containers.REQUIREMENTS for name in ("shmbridge", "torch", "mujoco", "numpy"))
    project = Project(ROOT)
    parser = argparse.ArgumentParser()
    containers.add_flags(parser)
    words = parser.parse_args(["--", "test_images.py", "-k", "uid"]).pytest_words
    command = containers.pytest_command(Path("python"), project, words)
    assert command[-3:] == ["test_images.py", "-k", "uid"]
    assert command[command.index("--confcutdir") + 1] == ROOT / "tests" / "containers"
    assert containers.variables(Path("/venv/bin/python"), "/usr/bin") == {"PATH": "/venv/bin:/usr/bin"}


def demo_file(*words: str) -> LaunchFile:
    """Return what ``make demo`` starts, given its flags."""
    parser = argparse.ArgumentParser()
    demo.add_flags(parser)
    command = demo.launch_command(Path("python"), Project(ROOT), "osmesa", parser.parse_args(words))
    assert command[:4] == [Path("python"), "-m", "shmbridge", "launch"]
    values = values_from_flags([str(word) for word in command[6::2]])
    assert command[5::2] == ["--set"] * len(values)
    return read_launch_file(Path(command[4]), values)


def test_the_demo_without_flags_is_what_its_launch_file_says() -> None:
    simulator = demo_file().runners[0]
    assert simulator.variables == {"MUJOCO_GL": "osmesa"}
    by_itself = read_launch_file(ROOT / "launch" / "demo.yaml", {}).runners[0]
    assert simulator.argv == by_itself.argv


def test_flags_of_the_demo_reach_the_simulator() -> None:
    words = demo_file("--num_episodes", "3", "--seed", "5", "--task", "door-open-v3", "--blank_cameras").runners[0].words
    given = dict(itertools.pairwise(words))
    assert given["--num_episodes"] == "3"
    assert given["--seed"] == "5"
    assert given["--task"] == "door-open-v3"
    assert given["--blank_cameras"] == "true"


def test_the_demo_starts_what_was_set_up_for_it() -> None:
    project = Project(ROOT)
    recipes = (demo.policy_recipe(project), demo.simulator_recipe(project))
    assert [program.venv for program in demo_file().programs] == [project.venvs / recipe.name for recipe in recipes]


@pytest.mark.parametrize(("content", "said"), [('{"metrics": {"success_rate": 1.0}}', "Metrics: {'success_rate': 1.0}\n"), ("{", ""), (None, "")])
def test_the_demo_ends_with_the_metrics_of_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    demo.repeat_metrics(tmp_path / "report.json")
    assert capsys.readouterr().out == said


def test_a_program_that_ignores_the_polite_signal_is_killed(programs: Programs, tmp_path: Path) -> None:
    with (tmp_path / "output").open("wb") as output:
        process = programs.start([sys.executable, "-c", STUBBORN], output=output)
    while not (tmp_path / "output").read_text():
        programs.pause()
    programs.end(process, grace=0.2)
    assert process.returncode == -signal.SIGKILL


def test_a_signal_ends_a_wait_and_the_program_waited_for(programs: Programs, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    source = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(100)"
    signaller = threading.Thread(target=_signal_when, args=(pid_file, signal.SIGTERM))
    signaller.start()
    with pytest.raises(SignalledError) as caught:
        programs.try_call([sys.executable, "-c", source])
    signaller.join()
    assert caught.value.number == signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_a_program_that_takes_too_long_is_ended(programs: Programs) -> None:
    with pytest.raises(SetupError, match="did not end within 1 s"):
        programs.try_call([sys.executable, "-c", "import time; time.sleep(100)"], timeout=1.0)


def test_a_failed_program_is_quoted(programs: Programs) -> None:
    with pytest.raises(SetupError, match=r"(?s)frying failed \(exit status 3\).*no pan"):
        programs.call([sys.executable, "-c", "print('no pan'); raise SystemExit(3)"], doing="frying")


def test_a_program_that_is_not_there_is_named(programs: Programs, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no-such-program cannot be started"):
        programs.try_call([tmp_path / "no-such-program"])


class Scripted(Programs):
    """Runs nothing. A command that contains certain words fails; any other succeeds, and one that makes a folder makes it."""

    def __init__(self, failing: dict[str, str]) -> None:
        super().__init__()
        self.failing = failing
        self.calls: list[str] = []

    def try_call(self, command, *, cwd=None, env=None, timeout=None) -> Finished:  # type: ignore[no-untyped-def]  # as its base class
        line = " ".join(map(str, [*command, *(env or {}).items()]))
        self.calls.append(line)
        if "-m venv" in line:
            Path(command[-1]).mkdir(parents=True)
        return next((Finished(1, text) for words, text in self.failing.items() if words in line), Finished(0, ""))


@pytest.fixture
def no_wishes(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("TORCH", "MUJOCO_GL"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("no_wishes")
def test_torch_comes_as_the_cpu_build() -> None:
    programs = Scripted({})
    torch_cpu.install_torch(programs, Path("python"), "policy")
    assert len(programs.calls) == 1
    assert programs.calls[0].endswith("install torch==2.13.0+cpu")


@pytest.mark.usefixtures("no_wishes")
def test_without_a_cpu_build_in_the_index_uv_is_asked_for_one() -> None:
    programs = Scripted({"+cpu": "no matching distribution"})
    torch_cpu.install_torch(programs, Path("python"), "policy")
    assert "--torch-backend=cpu torch" in programs.calls[-1]


@pytest.mark.usefixtures("no_wishes")
def test_without_any_cpu_build_nothing_is_downloaded_and_the_way_to_allow_it_is_said() -> None:
    programs = Scripted({"+cpu": "no matching distribution", "--torch-backend": "no route"})
    with pytest.raises(SetupError, match=r"(?s)no matching distribution.*no route.*several gigabytes.*TORCH=torch make demo"):
        torch_cpu.install_torch(programs, Path("python"), "policy")
    assert not any(line.endswith("install torch") for line in programs.calls)


def test_the_torch_that_the_user_asks_for_is_handed_to_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH", "torch==2.5.0")
    programs = Scripted({})
    torch_cpu.install_torch(programs, Path("python"), "policy")
    assert [line.endswith("install torch==2.5.0") for line in programs.calls] == [True]


@pytest.mark.usefixtures("no_wishes")
def test_the_first_backend_that_renders_is_taken() -> None:
    assert rendering.find_backend(Scripted({}), Path("python")) == "egl"
    assert rendering.find_backend(Scripted({"egl": "no libEGL"}), Path("python")) == "osmesa"


def test_the_users_backend_is_the_only_one_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    programs = Scripted({})
    assert rendering.find_backend(programs, Path("python")) == "osmesa"
    assert not any("egl" in line for line in programs.calls)


@pytest.mark.usefixtures("no_wishes")
def test_where_nothing_renders_a_user_is_told_what_to_type_and_sudo_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    programs = Scripted({"MUJOCO_GL": "no library"})
    with pytest.raises(SetupError, match=r"(?s)no library.*sudo apt-get install libosmesa6"):
        rendering.find_backend(programs, Path("python"))
    assert not any("apt-get" in line for line in programs.calls)


def test_an_environment_is_made_once_and_mended_when_only_the_project_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH", raising=False)
    project, recipe = Project(tmp_path), venvs.Recipe("simulator", ("numpy",))

    def commands(wheel: str, wanted: venvs.Recipe = recipe) -> list[str]:
        programs = Scripted({})
        venvs.make(programs, project, wanted, tmp_path / wheel / "shmbridge.whl")
        return [next((word for word in ("venv", "--no-deps", "install") if f" {word} " in f"{line} "), line) for line in programs.calls]

    assert commands("one") == ["venv", "install", "--no-deps"]
    assert commands("one") == []
    assert commands("two") == ["--no-deps"]
    assert commands("two", venvs.Recipe("simulator", ("numpy", "rich"))) == ["venv", "install", "--no-deps"]


def _signal_when(path: Path, number: int) -> None:
    while not path.exists() or not path.read_text():
        time.sleep(0.02)
    os.kill(os.getpid(), number)
