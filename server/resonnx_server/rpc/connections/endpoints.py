"""Addresses of clients in one form: gRPC and the system write them differently."""

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final

from resonnx_server.access.caller import host_and_port

_KEPT_PEERS: Final = 4096

# Address and port of a client.
Endpoint = tuple[str, int]


@lru_cache(_KEPT_PEERS)
def endpoint(peer: str) -> Endpoint:
    """Return address and port of gRPC's address of a client, "ipv4:203.0.113.7:41234"; ("", 0) for other kinds."""
    host, port = host_and_port(peer)
    return (plain_host(host), int(port)) if peer.startswith("ip") and port.isdecimal() else ("", 0)


@lru_cache(_KEPT_PEERS)
def plain_host(host: str) -> str:
    """Return an IP address in its shortest form, without a zone; IPv4 within IPv6 ("::ffff:203.0.113.7") as IPv4.

    A text that is not an address is returned as it is.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
