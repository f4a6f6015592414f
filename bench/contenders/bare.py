"""A bare Starlette route: the same JSON parsed and answered, and nothing booked. The ceiling."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from api.app import calm_the_garbage_collector
from bench.contenders.face import RESERVE
from bench.contenders.serve import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

HEADERS: Final = {"location": "/api/bookings/549755814017", "cache-control": "no-store"}


async def reserve(request: Request) -> JSONResponse:
    """Answer what a booking would be answered."""
    asked = await request.json()
    booking = {
        "id": 549755814017,
        "event_id": asked["event_id"],
        "user_id": asked["user_id"],
        "created_at": "2026-11-22T13:00:00.123Z",
        "status": "confirmed",
    }
    return JSONResponse(booking, 201, HEADERS)


async def ready(_request: Request) -> JSONResponse:
    """The process answers."""
    return JSONResponse({"status": "ready"})


@asynccontextmanager
async def life(_application: Starlette) -> AsyncIterator[None]:
    """Calm the garbage collector, as our API does."""
    calm_the_garbage_collector()
    yield


if __name__ == "__main__":
    routes = [Route(RESERVE, reserve, methods=["POST"]), Route("/ready", ready)]
    serve(Starlette(routes=routes, lifespan=life))
