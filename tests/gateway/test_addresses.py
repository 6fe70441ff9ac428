"""Addresses of devices that the settings except from TLS."""

from __future__ import annotations

import pytest

from edgeward.gateway.addresses import same_address


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ("192.0.2.10", "192.0.2.10"),
        ("192.0.2.10", "::ffff:192.0.2.10"),  # a socket for both families
        ("fe80::1", "fe80::1%eth0"),
        ("2001:db8::1", "2001:0db8:0:0:0:0:0:1"),
    ],
)
def test_one_address_in_two_forms_is_the_same(wanted: str, given: str) -> None:
    assert same_address(wanted, given)


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ("192.0.2.10", "192.0.2.11"),
        ("192.0.2.10", "192.0.2.1"),
        ("", ""),
        ("old-scanner", "192.0.2.10"),
        ("192.0.2.10", ""),
    ],
)
def test_another_address_and_what_is_none_are_not(wanted: str, given: str) -> None:
    assert not same_address(wanted, given)
