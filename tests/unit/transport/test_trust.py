"""Who may be talked to, and what those who may not are told."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from shmbridge.errors import AuthenticationError
from shmbridge.memory.sharing import PRIVATE, Sharing, our_groups
from shmbridge.transport import trust
from shmbridge.transport.stream import Credentials
from shmbridge.transport.trust import check_peer, refused_by_mode, user_name

STRANGER = 987_654
OURS = min(our_groups())
THEIRS = 876_543


def somebody(uid: int = STRANGER, *groups: int) -> Credentials:
    return Credentials(0, uid, frozenset(groups))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "socket"
    file.touch()
    file.chmod(0o600)
    return file


def refusal_of(peer: Credentials, sharing: Sharing, path: Path) -> str:
    with pytest.raises(AuthenticationError) as refusal:
        check_peer(peer, sharing, "the client", str(path))
    return str(refusal.value)


def test_our_own_user_is_trusted_whatever_its_groups(path: Path) -> None:
    check_peer(somebody(os.geteuid()), PRIVATE, "the client", str(path))
    check_peer(somebody(os.geteuid()), Sharing(OURS), "the client", str(path))


def test_a_member_of_the_group_is_trusted_where_the_group_is(path: Path) -> None:
    check_peer(somebody(STRANGER, 5, OURS), Sharing(OURS), "the client", str(path))
    refusal_of(somebody(STRANGER, 5, OURS), PRIVATE, path)


@pytest.mark.parametrize("uid", [0, STRANGER])
def test_who_is_no_member_is_refused_root_included(path: Path, uid: int) -> None:
    if uid != os.geteuid():
        refusal_of(somebody(uid, 5), Sharing(OURS), path)


def test_a_refusal_names_both_users_the_file_and_the_flags(path: Path) -> None:
    text = refusal_of(somebody(), PRIVATE, path)
    for part in (f"uid {STRANGER}", user_name(os.geteuid()), str(path), "for one user only", "--user", "--shm_group GID", "--group-add GID"):
        assert part in text


def test_one_who_forgot_the_flag_is_told_the_number(path: Path) -> None:
    os.chown(path, -1, OURS)
    path.chmod(0o660)
    assert f"give this side --shm_group {OURS} too" in refusal_of(somebody(STRANGER, OURS), PRIVATE, path)
    assert f"the other side must be a member of it too (--group-add {OURS}" in refusal_of(somebody(), Sharing(OURS), path)


@pytest.mark.needs_root
def test_one_whom_the_mode_keeps_out_is_told_of_which_group_to_be(path: Path) -> None:
    assert "--user" in str(refused_by_mode(str(path), PRIVATE))
    os.chown(path, STRANGER, THEIRS)
    path.chmod(0o660)
    text = str(refused_by_mode(str(path), PRIVATE))
    assert f"uid {STRANGER}" in text and f"--group-add {THEIRS}" in text and f"--shm_group {THEIRS}" in text


def test_a_socket_that_is_gone_meanwhile_is_no_other_error(tmp_path: Path) -> None:
    assert "for one user only" in refusal_of(somebody(), PRIVATE, tmp_path / "gone")


def test_a_number_that_stands_for_strangers_proves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "stand_in", lambda kind: {"uid": os.geteuid(), "gid": OURS}[kind])
    assert "stands for every user" in refusal_of(somebody(os.geteuid()), PRIVATE, path)
    refusal_of(somebody(STRANGER, OURS), Sharing(OURS), path)


def test_a_file_that_is_gone_is_nobodys(tmp_path: Path) -> None:
    assert "nobody any more" in str(refused_by_mode(str(tmp_path / "gone"), PRIVATE))


def test_a_user_has_a_name_where_the_machine_knows_one() -> None:
    assert user_name(0) == "root (uid 0)"
    assert user_name(STRANGER) == f"uid {STRANGER}"


def test_a_name_that_only_repeats_the_number_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pwd.getpwuid", lambda uid: SimpleNamespace(pw_name=str(uid)))
    assert user_name(STRANGER) == f"uid {STRANGER}"
