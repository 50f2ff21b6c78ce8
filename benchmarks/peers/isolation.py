"""A network of one's own: programs with fixed ports meet nobody there, and names can be given to them.

The original's queue-proxy and activator listen on fixed ports of all addresses, and the activator looks for its
autoscaler by a cluster name. Linux gives a process (and its children) network interfaces and mounts of its own, to
root always and to others where user namespaces are allowed. Where it is not possible, benchmarks go on without.
"""

import ctypes
import fcntl
import os
import socket
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["AUTOSCALER", "isolate"]

AUTOSCALER = ("127.83.0.1", 8080)
"""Where `autoscaler.knative-serving` is, once isolated."""
NAMES = {AUTOSCALER[0]: "autoscaler.knative-serving.svc.cluster.local"}

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MS_REC = 16384
_MS_PRIVATE = 1 << 18
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def isolate(names: Mapping[str, str] | None = None) -> str:
    """Give this process, before it starts threads, a loopback and a hosts file of its own; returns why not, or "".

    Args:
        names: address -> name, for /etc/hosts; the default is the autoscaler's.
    """
    try:
        kernel = ctypes.CDLL(None, use_errno=True)
        _unshare(kernel)
        _raise_loopback()
        _name(kernel, NAMES if names is None else names)
    except OSError as exc:
        return f"no network of our own: {exc}"
    except AttributeError:
        return "no network of our own: this is not Linux"
    return ""


def _unshare(kernel: ctypes.CDLL) -> None:
    flags = _CLONE_NEWNET | _CLONE_NEWNS
    user, group = os.getuid(), os.getgid()
    if user != 0:
        flags |= _CLONE_NEWUSER
    _check(kernel.unshare(flags), "unshare")
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request + bytes(24)), 16)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | _IFF_UP) + bytes(24))


def _name(kernel: ctypes.CDLL, names: Mapping[str, str]) -> None:
    """Bind a longer hosts file over /etc/hosts, for us alone."""
    text = Path("/etc/hosts").read_text() + "".join(f"\n{address} {name}\n" for address, name in names.items())
    with tempfile.NamedTemporaryFile("w", prefix="torpor-hosts-", delete=False) as file:
        file.write(text)
    try:
        _check(kernel.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "make mounts private")
        _check(kernel.mount(file.name.encode(), b"/etc/hosts", None, _MS_BIND, None), "bind /etc/hosts")
    finally:
        os.unlink(file.name)  # the mount keeps it


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
