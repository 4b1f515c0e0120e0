"""The format of launch files: what is read, and what is refused with which words."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from shmbridge.cli.launch_file import expand, flag_value, read_launch_file
from shmbridge.errors import SpecError

LAUNCH = Path(__file__).resolve().parents[3] / "launch"


@pytest.fixture
def write(tmp_path):
    """Write a launch file and return its path."""

    def write_text(text):
        path = tmp_path / "two words" / "pair.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write_text


@pytest.fixture
def only(write):
    """Return the only program of a file, given the lines of its entry."""

    def read(*lines, **values):
        text = "values: {size: 32, name: big one}\nprograms:\n  it:\n" + "".join(f"    {line}\n" for line in lines)
        (program,) = read_launch_file(write(text), values).programs
        return program

    return read


PAIR = """
programs:
  simulator:
    shmbridge: run --policy_deployment remote --name pair --num_steps 3 zero
  policy:
    shmbridge: [serve, --name, pair, --policy_type, zero]
"""


def test_hosts_and_runners_are_told_apart_in_any_order(write):
    file = read_launch_file(write(PAIR), {})
    assert [program.label for program in file.programs] == ["simulator", "policy"]
    assert [(program.label, program.serves) for program in file.hosts] == [("policy", "pair")]
    assert [(program.label, program.serves) for program in file.runners] == [("simulator", None)]


def test_words_may_be_a_list_or_one_text_split_as_a_shell_does(only):
    assert only("shmbridge: run --num_steps 3 'my env.py:Env'").words == ("run", "--num_steps", "3", "my env.py:Env")
    assert only("shmbridge: [run, --num_steps, 3, 'my env.py:Env']").words == ("run", "--num_steps", "3", "my env.py:Env")


def test_command_of_shmbridge_is_run_as_a_module_and_a_script_as_it_is(only):
    assert only("shmbridge: run zero").argv == (sys.executable, "-m", "shmbridge", "run", "zero")
    assert only("script: simulate.py --fast").argv == (sys.executable, "simulate.py", "--fast")
    assert only("script: simulate.py").words == ()


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (["shmbridge: serve"], "default"),
        (["shmbridge: serve --name one"], "one"),
        (["shmbridge: serve --name=one"], "one"),
        (["shmbridge: serve --name one --name two"], "two"),
        (["shmbridge: serve --name host-${size}"], "host-32"),
        (["script: my_host.py", "serves: host-${size}"], "host-32"),
        (["script: serve"], None),
        (["shmbridge: run --name one zero"], None),
    ],
)
def test_name_of_a_host_is_found(only, lines, name):
    assert only(*lines).serves == name


def test_environment_is_a_folder_an_interpreter_or_that_of_the_command(only, tmp_path):
    here = tmp_path / "two words"
    program = only("venv: ../.venvs/policy", "script: x")
    assert (program.python, program.venv, program.own_python) == (tmp_path / ".venvs/policy/bin/python", tmp_path / ".venvs/policy", True)
    program = only("python: bin/python3", "script: x")
    assert (program.python, program.venv, program.own_python) == (here / "bin/python3", None, True)
    program = only("script: x")
    assert (program.python, program.venv, program.own_python) == (Path(sys.executable), None, False)


def test_interpreter_of_an_environment_is_not_followed_to_where_it_links(only, tmp_path):
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    assert only("venv: ../venv", "script: x").argv[0] == str(tmp_path / "venv/bin/python")


def test_home_may_be_written_as_a_tilde(only, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert only("venv: ~/venvs/${size}", "script: x").venv == Path("/home/someone/venvs/32")


def test_working_folder_is_beside_the_file_or_the_current_one(only, tmp_path, monkeypatch):
    assert only("folder: ../out", "script: x").folder == tmp_path / "out"
    monkeypatch.chdir("/")
    assert only("script: x").folder == Path("/")


def test_paths_begin_at_the_real_folder_of_the_file(write, tmp_path):
    path = write("programs: {it: {venv: ../venv, script: x}}")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "link").symlink_to(path.parent)
    (program,) = read_launch_file(tmp_path / "far" / "link" / path.name, {}).programs
    assert program.venv == tmp_path / "venv"


def test_values_stand_in_words_paths_and_variables_and_stay_one_word(only):
    program = only("folder: /out/${size}", "variables: {SIZE: 'x${size}', N: 3}", "script: a ${name} --size=${size} ${folder}/r")
    assert program.folder == Path("/out/32")
    assert program.variables == {"SIZE": "x32", "N": "3"}
    assert program.argv[1:] == ("a", "big one", "--size=32", "/out/32/r")


def test_given_values_come_before_those_of_the_file(only):
    assert only("script: ${size} ${name}", size="64").argv[1:] == ("64", "big one")


def test_folder_of_the_file_is_known_in_it(only, tmp_path):
    assert only("script: ${here}/simulate.py").argv[1] == str(tmp_path / "two words" / "simulate.py")


def test_value_is_not_looked_into_again():
    assert expand("${a}", {"a": "${b}"}, "") == "${b}"


@pytest.mark.parametrize(("text", "expanded"), [("$${a}", "${a}"), ("$$${a}", "$${a}"), ("$a $(a) {a} $", "$a $(a) {a} $"), ("${a}${a}", "11")])
def test_dollar_and_brace_themselves_can_be_written(text, expanded):
    assert expand(text, {"a": "1"}, "") == expanded


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("programs: {a: {script: x}}\nvalue: {}", "no key 'value' (did you mean 'values'?). There are: "),
        ("values: {}", "programs"),
        ("programs: {}", "'programs' is empty"),
        ("programs: [a]", "programs"),
        ("programs: {a: {script: x}}\nvalues: {a: [1]}", "values"),
        ("programs: {a: {script: x}}\nvalues: {here: x}", "'here' cannot name a value"),
        ("programs: {a: {script: x}}\nvalues: {a-b: x}", "'a-b' cannot name a value"),
        ("programs: {a: {shmbridge: serve}, b: {shmbridge: serve --name default}}", "'a' and 'b' both serve as 'default'"),
        ("just words", "key: value"),
        ("a: [", "no YAML"),
    ],
)
def test_mistakes_in_the_file_are_named_with_it(write, text, said):
    path = write(text)
    with pytest.raises(SpecError) as refused:
        read_launch_file(path, {})
    assert said in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("lines", "key", "said"),
    [
        (["vnv: x", "script: x"], "vnv", "did you mean 'venv'"),
        (["venv: x", "python: y", "script: x"], "'venv' and 'python'", "one of them"),
        (["venv: x"], "'shmbridge'", "'script'"),
        (["script: x", "shmbridge: run"], "'shmbridge'", "'script'"),
        (["shmbridge: srve"], "shmbridge", "did you mean 'serve'"),
        (["shmbridge: []"], "shmbridge", "no words"),
        (["script: ''"], "script", "no words"),
        (['script: "it\'s"'], "script", "cannot be split"),
        (["script: [a, true]"], "script", "in quotes"),
        (["script: [a, 2024-01-01]"], "script", "in quotes"),
        (["script: [a, [b]]"], "script", "got `array`"),
        (["script: a ${siz}"], "script", "did you mean 'size'"),
        (["script: a ${size"], "script", "lacks a '}'"),
        (['script: ["a\\0"]'], "script", "NUL"),
        (["folder: 2024", "script: x"], "folder", "got `int`"),
        (["variables: {A B: 1}", "script: x"], "variables", "'A B'"),
        (["variables: {A: '${b}'}", "script: x"], "variables, A", "no value 'b'"),
        (["variables: [A]", "script: x"], "variables", "got `array`"),
        (["script: x", "serves: A Host"], "serves", "cannot name a host"),
        (["shmbridge: serve --name A"], "shmbridge", "cannot name a host"),
        (["shmbridge: serve", "serves: a"], "serves", "--name"),
        (["shmbridge: run", "serves: a"], "serves", "--name"),
    ],
)
def test_mistakes_in_a_program_are_named_with_file_program_and_key(only, lines, key, said):
    with pytest.raises(SpecError) as refused:
        only(*lines)
    text = str(refused.value)
    assert "pair.yaml: program 'it'" in text
    assert key in text and said in text


@pytest.mark.parametrize("label", ["launch", "a b", "", "-a", "a" * 33])
def test_names_that_would_be_unclear_before_a_line_are_refused(write, label):
    with pytest.raises(SpecError, match="a program's name is"):
        read_launch_file(write(f"programs: {{'{label}': {{script: x}}}}"), {})


def test_value_that_the_file_does_not_have_cannot_be_set(only):
    with pytest.raises(SpecError, match=r"no value 'sise' to set \(did you mean 'size'\?\). There are: "):
        only("script: x", sise="3")


def test_entry_that_is_no_mapping_is_refused(write):
    with pytest.raises(SpecError, match="program 'a': Expected `object`"):
        read_launch_file(write("programs: {a: words}"), {})


@pytest.mark.parametrize(
    ("words", "value"),
    [(["--a=x", "--a", "y"], "y"), (["--a", "x", "--a=y"], "y"), (["--a="], ""), (["--a"], None), (["--ab", "x"], None), ([], None)],
)
def test_of_a_flag_that_is_given_twice_the_last_counts(words, value):
    assert flag_value(words, "--a") == value


def test_host_has_the_last_name_that_its_words_say(only):
    assert only("shmbridge: serve --name=x --name y").serves == "y"


def test_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"^launch file \S+none\.yaml cannot be read: No such file or directory$"):
        read_launch_file(tmp_path / "none.yaml", {})


@pytest.mark.skipif(not LAUNCH.is_dir(), reason="the launch files are not beside the tests")
@pytest.mark.parametrize(
    ("name", "hosts", "runners"),
    [
        ("demo.yaml", {"policy": "demo"}, ["simulator"]),
        ("two_simulators.yaml", {"policy": "two-simulators"}, ["one", "two"]),
        ("local.yaml", {}, ["simulator"]),
    ],
)
def test_files_that_come_along_are_what_they_say(name, hosts, runners):
    file = read_launch_file(LAUNCH / name, {})
    assert {program.label: program.serves for program in file.hosts} == hosts
    assert [program.label for program in file.runners] == runners
    for program in file.programs:
        assert program.folder == LAUNCH.parent / ".demo"
        assert program.venv == LAUNCH.parent / ".venvs" / ("policy" if program.serves else "simulator")


@pytest.mark.skipif(not LAUNCH.is_dir(), reason="the launch files are not beside the tests")
def test_every_launch_file_is_looked_at_here():
    assert sorted(path.name for path in LAUNCH.glob("*.yaml")) == ["demo.yaml", "local.yaml", "two_simulators.yaml"]
