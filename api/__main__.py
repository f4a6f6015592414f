"""``python -m api``: serve HTTP, in one process or in several that share a socket."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import NoReturn

from uvicorn import Config, Server
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from api import auth
from api.protocol import Protocol
from engine.errors import Misconfigured
from engine.log import configure, get_logger
from engine.settings import Settings

USAGE_ERROR = 2
BACKLOG = 4096
DROPPED_AFTER_MS = 30_000


def main() -> None:
    """Serve until told to end.

    Exits with 2 if a setting or the address cannot be used, with 3 if the engine refuses to start.
    """
    try:
        settings = Settings.load()
        auth.check(settings)
    except Misconfigured as error:
        refuse(str(error))
    handed_over = os.environ.get("LISTEN_FD")
    address = f"LISTEN_FD={handed_over}" if handed_over else f"{settings.host}:{settings.port}"
    try:
        listener = adopt(handed_over) if handed_over else listen(settings)
        check_exposure(listener, settings)
    except Misconfigured as error:
        refuse(str(error))
    except (OSError, ValueError, OverflowError) as error:
        refuse(f"cannot listen on {address}: {error}")
    drop_the_deaf(listener)
    configure(settings)
    get_logger(__name__).info("listening", address=address, processes=settings.api_workers)
    config = Config(
        "api.app:create",
        factory=True,
        loop="uvloop",
        http=Protocol,
        ws="none",
        lifespan="on",
        workers=settings.api_workers,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=15,
    )
    sys.exit(serve(config, listener))


def serve(config: Config, listener: socket.socket) -> int:
    """Run the server, or several of them; return the exit code."""
    if config.workers == 1:
        for number in (signal.SIGTERM, signal.SIGINT):
            # uvicorn sends itself the signal again when all is done: that is a success.
            signal.signal(number, lambda *_: sys.exit(0))
        server = Server(config)
        server.run(sockets=[listener])
        return 0 if server.started else STARTUP_FAILURE
    supervisor = Multiprocess(config, sockets=[listener])
    supervisor.run()
    failed = any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes)
    return STARTUP_FAILURE if failed else 0


def adopt(descriptor: str) -> socket.socket:
    """Take over the listening socket that the parent opened.

    Raises:
        OSError, ValueError, OverflowError: The descriptor is no socket.
    """
    return socket.socket(fileno=int(descriptor))


def listen(settings: Settings) -> socket.socket:
    """Open a listening socket.

    Raises:
        Misconfigured: It can be reached from outside, and nobody said who may call.
        OSError: The address is taken, or not of this machine.
    """
    settings.check_exposure(settings.host)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((settings.host, settings.port))
    listener.listen(BACKLOG)
    return listener


def drop_the_deaf(listener: socket.socket) -> None:
    """Have the kernel close a connection whose other end takes nothing for so long (Linux).

    Only the kernel can: whoever does not read his stream is sent no more, and a server that closes
    such a connection waits until he has read the rest.
    """
    if sys.platform == "linux":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DROPPED_AFTER_MS)


def check_exposure(listener: socket.socket, settings: Settings) -> None:
    """Refuse a socket of the network where nobody said who may call.

    Raises:
        Misconfigured: It is one.
    """
    if listener.family != socket.AF_UNIX:
        settings.check_exposure(listener.getsockname()[0])


def refuse(reason: str) -> NoReturn:
    """End the process with one line that says why."""
    sys.stderr.write(f"onsale: {reason}\n")
    sys.exit(USAGE_ERROR)


if __name__ == "__main__":
    main()
