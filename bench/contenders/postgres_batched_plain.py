"""Postgres alone, micro-batched, behind uvicorn as it comes: without our short way through it."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bench.contenders.face import Face
from bench.contenders.postgres_batched import SCHEMA, Batched
from bench.contenders.serve import serve

__all__ = ["SCHEMA"]

if __name__ == "__main__":
    serve(Face(Batched()), HttpToolsProtocol)
