"""`run_rest`: the process of `kneegrade serve` that answers HTTP."""

import socket
import threading
from typing import Final

import uvicorn

from kneegrade.server.reading.spool_store import SpoolStore
from kneegrade.server.rest.rest_app import application, rest_section, spool_signatures
from kneegrade.server.rest.rest_listener import listening_socket, rest_tls
from kneegrade.server.rest.uvicorn_limits import MAX_HANDSHAKES, MAX_HEADER_BYTES, LimitedListener, limited_protocol
from kneegrade.server.settings import ServeSettings
from kneegrade.server.spool.film_spool import Spool

LOOP: Final = "kneegrade.server.rest.uvicorn_limits:LimitedLoop"
GRACE_SECONDS: Final = 3  # for requests in work when the service ends


def run_rest(settings: ServeSettings, spool: Spool, listener: socket.socket | None = None) -> None:
    """Serve until SIGTERM.

    Args:
        settings: with a section `rest`.
        spool: with films and results.
        listener: that listens already; None: one is made.

    Raises:
        UsageError: the file of tokens or of TLS cannot be used, or the address or port cannot be used.
    """
    rest = rest_section(settings)
    config = uvicorn.Config(
        application(settings, spool), http=limited_protocol(rest.connections), ws="none", lifespan="off", loop=LOOP,
        log_config=None, access_log=False, server_header=False, proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES, timeout_keep_alive=5, timeout_graceful_shutdown=GRACE_SECONDS,
    )  # fmt: skip
    config.load()
    config.ssl = rest_tls(rest)
    if rest.viewer:  # beside the requests, which do not wait for it
        signatures = spool_signatures(settings, spool, SpoolStore(spool))
        threading.Thread(target=signatures.redo, name="signatures", daemon=True).start()
    limited = LimitedListener(
        listener or listening_socket(rest), rest.connections + MAX_HANDSHAKES, rest.connections_per_address
    )
    uvicorn.Server(config).run(sockets=[limited])
