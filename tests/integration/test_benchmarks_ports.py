"""Ports handed out for programs that start later."""

import socket

import pytest

from benchmarks.ports import free_port, free_ports


def test_a_port_is_held_against_all_who_do_not_name_it() -> None:
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", free_port()))  # the rule by which the kernel chooses ports: no SO_REUSEADDR


def test_a_server_that_names_its_port_has_it() -> None:
    for port in free_ports(3):
        with socket.create_server(("127.0.0.1", port)) as server:
            assert server.getsockname()[1] == port


def test_all_ports_are_different() -> None:
    assert len(set(free_ports(20))) == 20
