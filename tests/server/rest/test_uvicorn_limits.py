"""Limits of connections, on a server with a trivial application."""

import contextlib
import socket
import sys
import threading

import pytest

uvicorn = pytest.importorskip("uvicorn", reason='needs pip install "kneegrade[serve]"')

from served import until  # noqa: E402

from kneegrade.server.rest.rest_server import LOOP  # noqa: E402
from kneegrade.server.rest.uvicorn_limits import LimitedListener, limited_protocol  # noqa: E402

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextlib.contextmanager
def serving(size, max_connections=8, stalled_seconds=0.3, per_address=8):
    """A server whose answers have `size` bytes, and its port."""

    async def answer(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": b"x" * size})

    protocol = limited_protocol(max_connections, stalled_seconds=stalled_seconds)
    server = uvicorn.Server(uvicorn.Config(answer, http=protocol, loop=LOOP, lifespan="off", log_config=None))
    listener = LimitedListener(socket.create_server(("127.0.0.1", 0)), max_connections, per_address)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield server, port
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize(("size", "requests"), [(20 << 20, 1), (1 << 16, 200)])
def test_a_client_that_does_not_read_is_cut_off(size, requests):
    with serving(size) as (server, port), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(REQUEST * requests)
        until(lambda: server.server_state.connections, 5)
        until(lambda: not server.server_state.connections, 5)


def test_connections_above_the_limit_are_closed_when_they_are_accepted_and_room_comes_back():
    with serving(10, max_connections=2) as (server, port), contextlib.ExitStack() as stack:
        address = ("127.0.0.1", port)
        first, second, third = (stack.enter_context(socket.create_connection(address, timeout=5)) for _ in range(3))
        with contextlib.suppress(ConnectionResetError):
            assert third.recv(1) == b""
        until(lambda: len(server.server_state.connections) == 2, 5)
        first.close()
        until(lambda: len(server.server_state.connections) == 1, 5)
        with socket.create_connection(address, timeout=5) as fourth:
            fourth.sendall(REQUEST)
            assert fourth.recv(100).startswith(b"HTTP/1.1 200")
        second.sendall(REQUEST)
        assert second.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a second loopback address")
def test_one_address_cannot_take_all_connections():
    with serving(10, per_address=3) as (server, port), contextlib.ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        with socket.create_connection(("127.0.0.1", port), timeout=5, source_address=("127.0.0.2", 0)) as other:
            other.sendall(REQUEST)
            assert other.recv(100).startswith(b"HTTP/1.1 200")
        assert len([one for one in server.server_state.connections if one.client[0] == "127.0.0.1"]) == 3
