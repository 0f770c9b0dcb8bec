"""How callers without a key are told apart."""

import pytest
from resonnx_server.access.caller import Role, address_name, unnamed


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("ipv4:203.0.113.7:41234", "ip:203.0.113.7"),
        ("ipv6:%5B2001:db8:0:1:2:3:4:5%5D:41234", "ip:2001:db8:0:1::/64"),
        ("ipv6:[2001:db8:0:1::9]:41234", "ip:2001:db8:0:1::/64"),
        ("ipv6:%5B::1%5D:41234", "ip:::/64"),
        ("ipv6:%5B::ffff:203.0.113.7%5D:41234", "ip:203.0.113.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:41234", "ip:fe80::/64"),
        ("unix:", "unix"),
        ("unix:/run/client", "unix"),
        ("unix-abstract:client", "unix"),
        ("", "ip:unknown"),
        ("ipv4:nonsense:1", "ip:unknown"),
        ("vsock:3:1", "ip:unknown"),
    ],
)
def test_an_address_is_named_without_its_port(peer: str, name: str) -> None:
    assert address_name(peer) == name


def test_a_caller_without_a_key_may_not_administer() -> None:
    caller = unnamed("ipv4:203.0.113.7:41234")
    assert caller.roles == {Role.INFER, Role.READ}
    assert (caller.best_priority, caller.models, caller.is_named) == (1, None, False)
    assert unnamed("ipv4:203.0.113.7:50000") == caller


def test_callers_of_many_connections_are_not_all_kept() -> None:
    for port in range(10_000):
        unnamed(f"ipv4:198.51.100.1:{port}")
    assert unnamed.cache_info().currsize <= 4096
