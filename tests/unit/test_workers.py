"""The number of workers, their sockets and their connections."""

import os
import socket
import sys

import pytest

from server.process.channel import Ask, Beat, Channel, Ready, Stop, ToChild, ToSupervisor
from server.process.commands.serve import worker_count
from server.process.embedded.postgres_settings import SETTINGS
from server.process.listeners import open_listener, open_listeners
from server.process.postgres_connections import EMBEDDED_CONNECTIONS_MAX, connections_max, share_connections
from server.settings import WORKERS_MAX


def test_auto_is_one_worker_a_usable_processor() -> None:
    """`auto` makes no more workers than the processors that the process may use."""
    assert worker_count("3") == 3
    if sys.platform == "linux":
        assert worker_count("auto") == min(len(os.sched_getaffinity(0)), WORKERS_MAX)
    assert 1 <= worker_count("auto") <= WORKERS_MAX


def test_connections_are_divided_among_workers() -> None:
    """The pools of all processes, and of one more during a swap, fit into the embedded PostgreSQL."""
    assert int(SETTINGS["max_connections"]) - EMBEDDED_CONNECTIONS_MAX == 20
    assert share_connections(4, 4, 2) == (4, 4)
    for workers in range(1, WORKERS_MAX + 1):
        for wanted in ((4, 4), (1, 100), (100, 1), (100, 100)):
            posting, reading = share_connections(*wanted, workers)
            assert 1 <= posting <= wanted[0]
            assert 1 <= reading <= wanted[1]
            assert connections_max(posting, reading, workers, background=True) <= EMBEDDED_CONNECTIONS_MAX


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel divides only there")
def test_the_kernel_divides_connections_among_sockets() -> None:
    """The kernel gives each socket of a port some of many connections, and no other process can bind the port."""
    listeners = open_listeners("127.0.0.1", 0, 3)
    port = listeners[0].getsockname()[1]
    with pytest.raises(OSError, match="in use"):
        open_listener("127.0.0.1", port)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(120)]
    counts = []
    for listener in listeners:
        counts.append(0)
        try:
            while True:
                listener.accept()[0].close()
                counts[-1] += 1
        except BlockingIOError:
            listener.close()
    assert sum(counts) == 120
    assert min(counts) > 0
    for client in clients:
        client.close()


def test_messages() -> None:
    """Messages are received one by one, however they are split, and the end of the other side ends the channel."""
    left, right = socket.socketpair()
    worker: Channel[ToChild] = Channel(left, ToChild)
    supervisor: Channel[ToSupervisor] = Channel(right, ToSupervisor)
    assert supervisor.send(Ask())
    assert supervisor.send(Stop())
    assert worker.send(Beat())
    assert worker.send(Ready(("no",)))
    assert [worker.wait(), worker.wait()] == [Ask(), Stop()]
    assert [supervisor.wait(), supervisor.wait()] == [Beat(), Ready(("no",))]
    supervisor.close()
    assert worker.wait() is None
    assert not worker.send(Beat())
    worker.close()
