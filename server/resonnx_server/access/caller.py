"""Callers: the name by which each is told apart, and its rights."""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Network, ip_address
from typing import Final

from resonnx_server.errors import PriorityNotAllowed

# Connections whose caller is kept: gRPC's address of a peer contains its port.
_KEPT_PEERS: Final = 4096
_IPV6_PREFIX: Final = 64
# Priorities as scheduling/queue.py has them: the most urgent one, and that of requests that name none.
_FIRST_PRIORITY: Final = 1
DEFAULT_PRIORITY: Final = 4


class Role(StrEnum):
    """A group of methods that a caller may use."""

    INFER = "infer"
    READ = "read"
    ADMIN = "admin"

    # Each call asks for a role; Enum's own hash takes longer.
    __hash__ = str.__hash__


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller as it is known before its request is received.

    Attributes:
        name: The unit of fairness and limits: "key:NAME", "cert:NAME", "ip:ADDRESS" (IPv6 "ip:NETWORK/64") or "unix".
        roles: Its groups of methods.
        best_priority: The most urgent priority that it may ask for: 1 (first) to 8.
        models: Names of the models that it may use; None for all.
        is_named: Whether `name` is a key's or a certificate's.
        rate_per_s: Most requests a second; None for no limit.
        max_concurrent: Most requests at a time; None for no limit.
    """

    name: str
    roles: frozenset[Role]
    best_priority: int = _FIRST_PRIORITY
    models: frozenset[str] | None = None
    is_named: bool = False
    rate_per_s: float | None = None
    max_concurrent: int | None = None

    def may_use(self, model: str) -> bool:
        """Whether the caller may use a model, if there is one of this name."""
        return self.models is None or model in self.models

    def priority(self, asked: int) -> int:
        """Return the priority of a request that asks for `asked`; 0 is the default, or the best if that is less urgent.

        Raises:
            PriorityNotAllowed: It is more urgent than the best.
        """
        if asked == 0:
            return self.best_priority if self.best_priority > DEFAULT_PRIORITY else 0
        if asked < self.best_priority:
            raise PriorityNotAllowed(asked, self.best_priority)
        return asked


# Where no keys are set, the port is the protection, as it is for admin methods, which have a port of their own.
OPEN_ROLES: Final = frozenset({Role.INFER, Role.READ})


@lru_cache(_KEPT_PEERS)
def unnamed(peer: str) -> Caller:
    """Return the caller without a key at gRPC's address `peer`, such as "ipv4:203.0.113.7:41234"."""
    return Caller(address_name(peer), OPEN_ROLES)


def address_name(peer: str) -> str:
    """Return the name of an address without its port: "ip:203.0.113.7", "ip:2001:db8:0:1::/64", "unix"."""
    kind = peer.partition(":")[0]
    if kind not in ("ipv4", "ipv6"):
        return "unix" if kind.startswith("unix") else "ip:unknown"
    return host_name(host_and_port(peer)[0])


def host_and_port(peer: str) -> tuple[str, str]:
    """Return host and port of gRPC's address `peer`, as text. Meaningless for peers other than "ipv4:" and "ipv6:"."""
    host, _, port = peer.partition(":")[2].rpartition(":")
    # gRPC writes "[", "]" and the "%" of a zone as in an address of the web.
    for code, character in (("%5B", "["), ("%5D", "]"), ("%25", "%")):
        host = host.replace(code, character)
    return host.strip("[]"), port


def host_name(host: str) -> str:
    """Return the name of a host's address, as of `address_name`."""
    network = network_of(host)
    return "ip:unknown" if network is None else f"ip:{network}"


@lru_cache(_KEPT_PEERS)
def network_of(host: str) -> IPv4Address | IPv6Network | None:
    """Return what one caller usually has: an IPv4 address, or an IPv6 network of 64 bits; None if it is not an address.

    A socket for both versions gives IPv4 addresses as "::ffff:203.0.113.7".
    """
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    mapped = address.ipv4_mapped
    return mapped if mapped is not None else IPv6Network((int(address), _IPV6_PREFIX), strict=False)
