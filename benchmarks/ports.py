"""Ports for programs that must be told theirs before they start.

A port that was only seen to be free is free for everybody: the kernel may give it to the next outgoing connection of
anything on the machine before the program listens. So each port here is left with a connection in TIME_WAIT: for a
minute the kernel gives it to nobody who asks for any port, while a listener that names it (with SO_REUSEADDR, as
servers set it) has it at once.
"""

import socket

__all__ = ["free_port", "free_ports"]


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1, all different, that are the caller's for a minute."""
    return [free_port() for _ in range(count)]


def free_port() -> int:
    """A port of 127.0.0.1 that is the caller's for a minute."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address: tuple[str, int] = listener.getsockname()
        with socket.create_connection(address, timeout=10) as client:
            accepted, _ = listener.accept()
            accepted.close()  # the side that closes first keeps the port in TIME_WAIT
            client.recv(1)
        return address[1]
