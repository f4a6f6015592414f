"""Postgres alone, micro-batched, and past ASGI as our own API goes with what is plain."""

from __future__ import annotations

from bench.contenders.face import ExpressFace
from bench.contenders.postgres_batched import SCHEMA, Batched
from bench.contenders.serve import serve

__all__ = ["SCHEMA"]

if __name__ == "__main__":
    serve(ExpressFace(Batched()))
