"""Addresses, and what an agreement computes for itself."""

from __future__ import annotations

import pytest
from helpers import make_agreement

from shmbridge.errors import SpecError
from shmbridge.layout import session_layouts
from shmbridge.transport.base import Address, parse_address


@pytest.mark.parametrize(("text", "name"), [("shm://demo", "demo"), ("demo", "demo"), ("", "default"), ("shm://a-b_1", "a-b_1")])
def test_an_address_names_a_host(text: str, name: str) -> None:
    assert parse_address(text) == Address(name)
    assert str(parse_address(text)) == f"shm://{name}"


@pytest.mark.parametrize("text", ["tcp://127.0.0.1:5555", "tls://sim:5555"])
def test_sockets_are_refused_with_what_to_use_instead(text: str) -> None:
    with pytest.raises(SpecError, match="use shm://NAME"):
        parse_address(text)


@pytest.mark.parametrize("text", ["http://demo", "shm://", "shm://a/b", "shm://Ä", "shm:/demo", "://x"])
def test_any_other_address_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_address(text)


def test_an_agreement_computes_its_layouts_from_what_was_agreed() -> None:
    agreement = make_agreement(3, horizon=5)
    assert agreement.layouts == session_layouts(agreement.specs, 3)
