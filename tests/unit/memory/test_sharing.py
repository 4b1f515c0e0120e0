"""For whom a file is: its mode and group, and who may say so."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from helpers import run_python

from shmbridge.errors import SpecError
from shmbridge.memory.sharing import PRIVATE, Sharing, our_groups, stand_in


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


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch(0o644)
    link.symlink_to(file)
    with pytest.raises(OSError, match=r"link|supported"):
        Sharing(os.getegid()).apply(str(link))
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


@pytest.mark.needs_root
def test_a_file_of_another_user_is_not_given_away(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch(0o600)
    os.chown(file, 12_345, 12_345)
    with pytest.raises(PermissionError):
        Sharing(23_456).apply(str(file))
    assert (stat.S_IMODE(file.stat().st_mode), file.stat().st_gid) == (0o600, 12_345)


def test_where_all_users_are_known_no_number_stands_for_strangers() -> None:
    if Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]:
        assert stand_in("uid") is None and stand_in("gid") is None


@pytest.mark.needs_root
def test_in_a_user_namespace_one_number_stands_for_strangers_and_is_no_group_to_share_with() -> None:
    program = (
        "from shmbridge.memory.sharing import Sharing, stand_in\nprint(stand_in('uid'), stand_in('gid'))\n"
        "try:\n    Sharing(65534).check_membership()\nexcept Exception as error:\n    print(type(error).__name__, error)"
    )
    output = run_python(program, prefix=["unshare", "--user", "--map-root-user"])
    assert output.startswith("65534 65534\nSpecError --shm_group 65534 stands for every group")
