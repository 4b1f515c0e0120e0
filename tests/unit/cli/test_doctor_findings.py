"""Kinds of findings, and the page that explains each of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shmbridge.cli.doctor_findings import PAGE, Level, Slug, count, ok, problem, warning

ROOT = Path(__file__).resolve().parents[3]
SOURCES = sorted((ROOT / "shmbridge" / "cli").glob("doctor*.py"))
SECTION = re.compile(r"^### (\S+)$(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)


def sections():
    return dict(SECTION.findall((ROOT / PAGE).read_text(encoding="utf-8")))


def test_each_kind_has_its_section_and_no_section_is_of_nothing():
    names = [name for name, _ in SECTION.findall((ROOT / PAGE).read_text(encoding="utf-8"))]
    assert sorted(names) == sorted(slug.value for slug in Slug)


@pytest.mark.parametrize("slug", [slug.value for slug in Slug])
def test_each_section_says_what_it_looks_like_why_and_what_to_do(slug):
    text = sections()[slug]
    assert [word for word in re.findall(r"^\*\*(.+?)\.\*\*", text, re.MULTILINE) if word in ("Looks like", "Why", "Do")] == ["Looks like", "Why", "Do"]


@pytest.mark.skipif(not SOURCES, reason="the sources are not beside the tests")
def test_each_kind_is_found_by_some_check():
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    assert set(re.findall(r"Slug\.([A-Z_]+)", text)) == {slug.name for slug in Slug}


def test_what_is_wrong_says_why_and_what_to_do_and_what_is_in_order_need_not():
    good, bad, worse = ok("a", "b"), warning(Slug.DISK, "c", "d", "e", "f"), problem(Slug.DISK, "c", "d", "e", "f")
    assert (good.why, good.do, good.slug) == ("", "", None)
    assert (bad.why, bad.do, bad.slug) == ("e", "f", Slug.DISK)
    assert [count([good, bad, worse, worse], level) for level in Level] == [1, 1, 2]
