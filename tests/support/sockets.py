"""Which sockets of some processes other machines can reach."""

import contextlib
import ipaddress
import socket
from collections.abc import Iterable

import psutil


def listening(pids: Iterable[int]) -> list[str]:
    """Every socket that takes connections or datagrams, as "address port process"."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            command = " ".join(process.cmdline()[:3])
            for connection in process.net_connections("inet"):
                datagrams = connection.type == socket.SOCK_DGRAM and not connection.raddr
                if connection.status == psutil.CONN_LISTEN or datagrams:
                    found.append(f"{connection.laddr.ip} {connection.laddr.port} {command}")
    return found


def exposed(pids: Iterable[int]) -> list[str]:
    """Those that are not on the loopback. Raises if no process listens at all."""
    found = listening(pids)
    assert found, "no process listens: the scan found the wrong processes"
    return [line for line in found if not _is_local(line.partition(" ")[0])]


def _is_local(text: str) -> bool:
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
