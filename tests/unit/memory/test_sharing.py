"""For whom a file is: its mode and group, and who may say so."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from helpers import run_python

from shmbridge.errors import SpecError
from shmbridge.memory.sharing import PRIVATE, Sharing, our_groups


@pytest.mark.parametrize(("sharing", "mode"), [(PRIVATE, 0o600), (Sharing(os.getegid()), 0o660)])
def test_a_file_gets_its_mode_whatever_it_had(tmp_path: Path, sharing: Sharing, mode: int) -> None:
    file = tmp_path / "file"
    file.touch(0o000)
    sharing.apply(str(file))
    assert stat.S_IMODE(file.stat().st_mode) == mode


@pytest.mark.needs_root
def test_a_file_gets_the_group(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    Sharing(23_456).apply(str(file))
    assert (file.stat().st_uid, file.stat().st_gid) == (os.geteuid(), 23_456)


def test_our_own_groups_are_ours_and_others_are_not() -> None:
    PRIVATE.check_membership()
    for group in our_groups():
        Sharing(group).check_membership()
    with pytest.raises(SpecError) as refusal:
        Sharing(987_654).check_membership()
    text = str(refusal.value)
    assert "--shm_group 987654" in text and str(os.getegid()) in text and "--group-add" in text


@pytest.mark.needs_root
def test_a_group_beside_the_first_one_counts() -> None:
    program = (
        "import os\nfrom shmbridge.memory.sharing import Sharing\nos.setgroups([23456]); os.setgid(12345); os.setuid(12345)\n"
        "for group in (12345, 23456):\n    Sharing(group).check_membership()\nprint('both')"
    )
    assert run_python(program) == "both\n"
