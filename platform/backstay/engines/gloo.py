"""The network interface by which the workers of a fit reach each other.

Gloo, which sums gradients on CPUs, listens on the address of the machine's name. On many machines
that is 127.0.0.1 or 127.0.1.1, where no other machine can connect.
"""

import os
import socket
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

VARIABLE = "GLOO_SOCKET_IFNAME"  # gloo reads it; a value that is set already stays


class GlooConfig(TorchConfig):  # type: ignore[misc] # Ray has no types
    """Torch's process group over gloo, by the interface that Ray itself uses on each machine."""

    def __init__(self) -> None:
        super().__init__(backend="gloo")

    @property
    def backend_cls(self) -> type["_GlooBackend"]:
        """The class that makes the process group."""
        return _GlooBackend


class _GlooBackend(_TorchBackend):  # type: ignore[misc] # Ray has no types
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Choose the interface in each worker, then make the process group."""
        worker_group.execute(_choose_interface)
        super().on_start(worker_group, backend_config)


def _choose_interface() -> None:
    if name := interface_of(ray.util.get_node_ip_address()):
        os.environ.setdefault(VARIABLE, name)


def interface_of(address: str) -> str | None:
    """The name of the interface with this address; None if this machine has none, as behind NAT."""
    families = {socket.AF_INET, socket.AF_INET6}
    for name, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            if one.family in families and one.address.partition("%")[0] == address:
                return name
    return None
