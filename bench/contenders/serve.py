"""The server of every contender: uvicorn with the settings of our own API, in one process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from uvicorn import Config, Server

from api.__main__ import BACKLOG, adopt
from api.protocol import Protocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def serve(application: ASGIApp, protocol: type[HttpToolsProtocol] = Protocol) -> None:
    """Serve on the socket that the bench opened, until told to end."""
    config = Config(
        application,
        loop="uvloop",
        http=protocol,
        ws="none",
        lifespan="on",
        workers=1,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=15,
    )
    Server(config).run(sockets=[adopt(os.environ["LISTEN_FD"])])
