"""Keeps a replica's own port off the network where its node is on the loopback."""

import ray
from ray._common import tls_utils

LOOPBACK = "127.0.0.1"


def bind_replica() -> None:
    """Call it in a deployment's `__init__`, before Ray Serve opens the replica's port.

    Ray Serve 2.60 opens a gRPC port in each replica, for calls between deployments. It binds that
    port to all interfaces and has no option for it. A node on the loopback has no other nodes that
    could call, so there the port goes to the loopback, as all other ports of Ray do.
    """
    from ray.serve._private import replica  # noqa: PLC0415 (a replica has it loaded)

    if ray.util.get_node_ip_address() == LOOPBACK:
        replica.add_port_to_grpc_server = _add_loopback_port


def _add_loopback_port(server: object, address: str) -> int:
    port: int = tls_utils.add_port_to_grpc_server(server, address.replace("[::]", LOOPBACK))
    return port
