"""Lets a listening socket take no connections from some networks: Linux drops their packets before it answers.

The filter is a program of the classic Berkeley Packet Filter, which needs no privileges.
"""

import ctypes
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Network
from typing import Final

from resonnx_server.runtime.machine.own_sockets import ask

# Of a program.
MOST_NETWORKS: Final = 256

Network = IPv4Address | IPv6Network
_Instruction = tuple[int, int, int, int]

# Linux' options; Python has no names for them.
_ATTACH_FILTER: Final = 26
_DETACH_FILTER: Final = 27
# Instructions: load 32 bits, jump, jump if equal, return a constant.
_LOAD: Final = 0x20
_JUMP: Final = 0x05
_JUMP_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06
# Where the protocol's number and the IP header are.
_PROTOCOL: Final = 0xFFFFF000
_HEADER: Final = 0xFFF00000
_IPV6: Final = 0x86DD
_SOURCE_OF_IPV4: Final = _HEADER + 12
_SOURCE_OF_IPV6: Final = _HEADER + 8
_DROP: Final = (_RETURN, 0, 0, 0)
_PASS: Final = (_RETURN, 0, 0, 0xFFFFFFFF)


def drop_from(descriptor: int, networks: Collection[Network]) -> bool:
    """Drop all packets of new connections from some networks, and no others; returns whether the system can do it.

    Args:
        descriptor: A listening socket.
        networks: IPv4 addresses, and IPv6 networks of 64 bits; at most 256, none for no filter.
    """

    def attach(borrowed: socket.socket) -> bool:
        if networks:
            code = b"".join(struct.pack("=HBBI", *instruction) for instruction in _program(networks))
            held = ctypes.create_string_buffer(code)
            program = struct.pack("HP", len(code) // 8, ctypes.addressof(held))
            borrowed.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)
        else:
            # There may be none.
            with suppress(FileNotFoundError):
                borrowed.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
        return True

    return ask(descriptor, attach) is not None


def _program(networks: Collection[Network]) -> list[_Instruction]:
    ipv4 = [*_of_ipv4(network for network in networks if isinstance(network, IPv4Address)), _PASS]
    ipv6 = [*_of_ipv6(network for network in networks if isinstance(network, IPv6Network)), _PASS]
    # Conditional jumps reach 255 instructions only.
    return [(_LOAD, 0, 0, _PROTOCOL), (_JUMP_IF_EQUAL, 0, 1, _IPV6), (_JUMP, 0, 0, len(ipv4)), *ipv4, *ipv6]


def _of_ipv4(addresses: Iterator[IPv4Address]) -> Iterator[_Instruction]:
    yield _LOAD, 0, 0, _SOURCE_OF_IPV4
    for address in addresses:
        yield _JUMP_IF_EQUAL, 0, 1, int(address)
        yield _DROP


def _of_ipv6(networks: Iterator[IPv6Network]) -> Iterator[_Instruction]:
    for network in networks:
        high, low = divmod(int(network.network_address) >> 64, 1 << 32)
        yield _LOAD, 0, 0, _SOURCE_OF_IPV6
        yield _JUMP_IF_EQUAL, 0, 3, high
        yield _LOAD, 0, 0, _SOURCE_OF_IPV6 + 4
        yield _JUMP_IF_EQUAL, 0, 1, low
        yield _DROP
