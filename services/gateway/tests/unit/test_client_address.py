"""Whose requests are counted together when nobody is logged in."""

from ipaddress import ip_network

import pytest

from shop_gateway.edge import client_address

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("203.0.113.7", "", "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),  # not from a proxy: not believed
        ("10.1.1.1", "198.51.100.1", "198.51.100.1"),
        ("10.1.1.1", "6.6.6.6, 198.51.100.1, 10.2.2.2", "198.51.100.1"),  # the client's own claims are left of it
        ("10.1.1.1", "10.3.3.3", "10.3.3.3"),
        ("10.1.1.1", "", "10.1.1.1"),
        ("10.1.1.1", "nonsense, 10.2.2.2", "10.2.2.2"),
        ("fd00::1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "", "203.0.113.7"),  # an IPv4 peer of a socket for both families
        ("::ffff:10.1.1.1", "198.51.100.1", "198.51.100.1"),
        ("10.1.1.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("2002:cb00:7107:1::1", "", "203.0.113.7"),  # 6to4: an IPv4 address and all the networks it may make up
        ("10.1.1.1", "2002:cb00:7107:2::1", "203.0.113.7"),
        ("fe80::1%eth0", "", "fe80::/64"),
        ("10.1.1.1", "198.51.100.1:4711", "10.1.1.1"),
        ("unix", "", "unix"),
    ],
)
def test_the_nearest_address_no_proxy_has(peer: str, forwarded_for: str, client: str) -> None:
    assert client_address(peer, forwarded_for, PROXIES) == client


def test_nothing_is_believed_without_trusted_proxies() -> None:
    assert client_address("10.1.1.1", "198.51.100.1", ()) == "10.1.1.1"


def test_an_ipv6_client_cannot_change_its_address_within_its_network() -> None:
    assert client_address("2001:db8::1", "", ()) == client_address("2001:db8::ffff", "", ())
