"""Who is admitted on which port, with keys and without, with certificates and without."""

from pathlib import Path

import pytest
from resonnx_server.access.caller import Caller, Role
from resonnx_server.access.gate import Gate
from resonnx_server.access.keys import KeyRing, digest_of
from resonnx_server.access.policy import AccessFault, Policy
from resonnx_server.access.reloaded import Reloaded
from resonnx_server.config import Settings
from resonnx_server.errors import PermissionDenied, PriorityNotAllowed, ServerError, Unauthenticated

PEER = "ipv4:203.0.113.7:4000"
INFER, READ, ADMIN = Role.INFER, Role.READ, Role.ADMIN


def _caller(name: str, *roles: Role) -> Caller:
    return Caller(name, frozenset(roles), is_named=True)


RING = KeyRing(
    {digest_of("a"): _caller("key:a", INFER), digest_of("root"): _caller("key:root", ADMIN)},
    {"robot": _caller("cert:robot", READ)},
)
KEYS = Reloaded([], lambda: RING)


def _refused(gate: Gate, role: Role, authorizations: list[str], certificate: str | None = None) -> tuple[type, str]:
    with pytest.raises(ServerError) as refused:
        gate.admit(role, PEER, authorizations, certificate)
    return type(refused.value).__mro__[1], refused.value.reason


def test_without_keys_an_address_may_all_but_administer() -> None:
    gate = Gate(None, admits_admin=False)
    assert gate.admit(INFER, PEER, [], None).name == "ip:203.0.113.7"
    assert gate.admit(READ, PEER, ["Bearer whatever"], None).name == "ip:203.0.113.7"
    named = gate.admit(READ, PEER, [], "robot")
    assert (named.name, named.is_named, named.best_priority) == ("cert:robot", True, 1)
    assert _refused(gate, ADMIN, []) == (PermissionDenied, "ADMIN_PORT_ONLY")
    assert Gate(None, admits_admin=True, is_trusted=True).admit(ADMIN, PEER, [], None).name == "ip:203.0.113.7"


def test_with_keys_a_key_decides() -> None:
    gate = Gate(KEYS, admits_admin=False)
    assert gate.admit(INFER, PEER, ["Bearer a"], None).name == "key:a"
    assert gate.admit(INFER, PEER, [" bearer  a "], "robot").name == "key:a"
    assert gate.admit(READ, PEER, [], "robot").name == "cert:robot"
    assert gate.admit(None, PEER, ["Bearer wrong"], None).name == "ip:203.0.113.7", "an open method"
    assert _refused(gate, READ, ["Bearer a"]) == (PermissionDenied, "ROLE_MISSING")
    assert _refused(gate, INFER, [], "robot") == (PermissionDenied, "ROLE_MISSING")
    assert _refused(gate, INFER, []) == (Unauthenticated, "KEY_MISSING")
    assert _refused(gate, INFER, [], "stranger") == (Unauthenticated, "CERTIFICATE_UNKNOWN")
    for wrong in (["Bearer b"], ["Bearer"], ["a"], [""], ["Basic a"], ["Bearer A"], ["Bearer a", "Bearer a"]):
        assert _refused(gate, INFER, wrong) == (Unauthenticated, "KEY_UNKNOWN")
    assert _refused(gate, INFER, ["Bearer wrong"], "robot") == (Unauthenticated, "KEY_UNKNOWN")


@pytest.mark.parametrize("is_trusted", [False, True])
def test_admin_methods_need_the_role_and_the_port(is_trusted: bool) -> None:
    assert _refused(Gate(KEYS, admits_admin=False), ADMIN, ["Bearer root"]) == (PermissionDenied, "ADMIN_PORT_ONLY")
    gate = Gate(KEYS, admits_admin=True, is_trusted=is_trusted)
    assert gate.admit(ADMIN, PEER, ["Bearer root"], None).name == "key:root"
    assert _refused(gate, ADMIN, ["Bearer a"]) == (PermissionDenied, "ROLE_MISSING")
    assert _refused(gate, ADMIN, []) == (Unauthenticated, "KEY_MISSING")


def test_a_priority_above_the_key_s_best_is_refused() -> None:
    usual, humble = Caller("key:a", frozenset(), best_priority=4), Caller("key:b", frozenset(), best_priority=6)
    assert [usual.priority(asked) for asked in (0, 4, 8)] == [0, 4, 8]
    assert [humble.priority(asked) for asked in (0, 6, 8)] == [6, 6, 8], "its default is its best"
    for caller, asked in ((usual, 3), (humble, 4)):
        with pytest.raises(PriorityNotAllowed, match=f"priority {asked} is more urgent than {caller.best_priority}"):
            caller.priority(asked)
    assert Caller("ip:::/64", frozenset()).priority(1) == 1, "without keys, all priorities are for all"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"admin_on_main": True}, "admin_on_main needs keys_file"),
        ({"admin_port": 0, "admin_host": "0.0.0.0"}, "admin_host '0.0.0.0' can be reached by others"),
        ({"admin_port": 0, "admin_host": "example.com"}, "admin_host 'example.com' can be reached by others"),
        ({"keys_file": Path("/nowhere/keys.toml")}, "keys file /nowhere/keys.toml"),
    ],
)
def test_settings_that_do_not_fit_together_are_told(given: dict[str, object], told: str) -> None:
    with pytest.raises(AccessFault, match=told):
        Policy(Settings(repository=Path(), **given))  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_an_admin_port_on_this_machine_needs_no_keys(host: str) -> None:
    policy = Policy(Settings(repository=Path(), admin_port=0, admin_host=host))
    assert policy.admin_gate.admit(ADMIN, PEER, [], None)
