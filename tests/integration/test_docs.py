"""What the documents say is so: examples run, what is quoted equals its file, links lead somewhere, and flags are those there are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "policies").rglob("*.md")])
CODE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
WITHOUT_PYTHON = {"compose", "containers", "isaac-sim", "kubernetes", "rootless-podman", "troubleshooting"}
"""Pages about containers and the machine: what they show are commands."""
EXAMPLE_LINK = re.compile(r"\]\((?:\.\./)*(?:docs/)?examples/(\w+\.py)\)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_]*")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DOCS.is_dir(), reason="the documents are not beside the tests")]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_example_runs_from_anywhere_and_succeeds(path, tmp_path):
    done = subprocess.run([sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_example_runner_command_ends_with_metrics(tmp_path):
    environment, policy = DOCS / "examples" / "point_environment.py", DOCS / "examples" / "gain_policy.py"
    words = ["--policy_type", f"{policy}:GainPolicy", "--num_episodes", "2", f"{environment}:PointEnvironment", "--size", "8"]
    done = subprocess.run([sys.executable, "-m", "shmbridge", "run", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Metrics: {'success_rate': 1.0, 'num_episodes': 2}"


def quoted_examples():
    """Return each python block that directly follows a link to an example, with its page and that example."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in CODE.finditer(text):
            linked = EXAMPLE_LINK.findall(text[: block.start()].rstrip().rpartition("\n")[2])
            if block[1] == "python" and linked:
                found.append((page, block[2], DOCS / "examples" / linked[-1]))
    return found


QUOTED = quoted_examples()


@pytest.mark.parametrize(("page", "block", "path"), QUOTED, ids=[f"{name_of(page)}-{path.name}" for page, _, path in QUOTED])
def test_quoted_example_is_its_file(page, block, path):
    """All of it, or all but what runs it."""
    source = path.read_text(encoding="utf-8")
    assert block in (source, source.partition('\n\nif __name__ == "__main__":')[0]), f"{path.name} has changed: quote it in {name_of(page)} again"


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *(page for page in sorted((DOCS / "howto").glob("*.md")) if page.stem not in WITHOUT_PYTHON)], ids=name_of
)
def test_pages_for_users_of_python_quote_an_example(page):
    assert any(page == quoting for quoting, _, _ in QUOTED)


def test_every_example_is_mentioned_by_a_page():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [path.name for path in EXAMPLES if path.name not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_in_documents_can_be_parsed(page):
    for block in CODE.finditer(page.read_text(encoding="utf-8")):
        if block[1] == "python":
            compile(block[2], name_of(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_to_files_and_headings(page):
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, heading = target.partition("#")
        found = (page.parent / place).resolve() if place else page
        assert found.exists(), f"{name_of(page)} links to {target}, which is not there"
        if heading:
            assert heading in headings(found), f"{name_of(page)} links to {target}, which has no such heading"


def headings(page):
    """Return the anchors of a page's headings, as web views make them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def section(name):
    """Return the part of the reference of commands that is about one."""
    text = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    found = re.search(rf"^## (?:[^\n]*, )?shmbridge {name}\b.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/reference/cli.md has no section about shmbridge {name}"
    return found[0]


def documented_flags(name):
    """Return the flags that have a row in the tables of a command; several may share one."""
    rows = [line.split("|")[1] for line in section(name).splitlines() if line.startswith("| `--")]
    return {flag for row in rows for flag in FLAG.findall(row)}


def real_flags(name):
    done = subprocess.run(
        [sys.executable, "-m", "shmbridge", name, "--help"], capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"^\s+(?:-h, )?(--\w+)", done.stdout, re.MULTILINE)) - {"--help"}


COMMANDS = ["serve", "run", "launch", "suite", "compare", "ls", "inspect", "gc", "doctor", "new", "bench", "policies", "envs"]


@pytest.mark.parametrize("name", COMMANDS)
def test_documented_flags_are_those_that_there_are(name):
    assert documented_flags(name) == real_flags(name)


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((DOCS / "howto").glob("*.md"))], ids=name_of)
def test_flags_of_our_commands_in_pages_for_users_exist(page):
    known = set().union(*(real_flags(name) for name in COMMANDS))
    of_examples = {f"--{name}" for path in EXAMPLES for name in re.findall(r"^    (\w+): \w+ = ", path.read_text(encoding="utf-8"), re.MULTILINE)}
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if "shmbridge serve" in line or "shmbridge run" in line]
    used = {flag.replace("-", "_").replace("__", "--", 1) for line in lines for flag in FLAG.findall(line)}
    assert used - known - of_examples == set()


@pytest.mark.parametrize("name", ["serve", "run"])
def test_documented_defaults_are_those_of_the_help(name):
    done = subprocess.run(
        [sys.executable, "-m", "shmbridge", name, "--help"], capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "4000"}
    )
    defaults = dict(re.findall(r"^\s+(--\w+)[^\n]*\(default: ([^)]*)\)$", done.stdout, re.MULTILINE))
    assert defaults, done.stdout
    for flag, default in defaults.items():
        row = next(line for line in section(name).splitlines() if line.startswith("|") and f"`{flag}" in line)
        assert default in row.split("|")[2], f"{flag} has default {default}, documented is {row}"
