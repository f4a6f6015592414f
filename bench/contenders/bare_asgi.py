"""The HTTP side of the other contenders with nothing behind it: what they all pay for HTTP."""

from __future__ import annotations

from itertools import count

from bench.contenders.face import Face, Peer, Verdict, now_ms
from bench.contenders.serve import serve
from engine.model import Word


class Nobody(Peer):
    """Says yes to everybody, and books nothing."""

    async def open(self) -> None:
        """Nothing to connect to."""
        self._ids = count(1)

    async def close(self) -> None:
        """Nothing to leave."""

    async def reserve(self, event_id: int, user_id: str) -> Verdict:  # noqa: ARG002 - of a peer
        """Say yes."""
        return Verdict(Word.RESERVED, next(self._ids), now_ms())


if __name__ == "__main__":
    serve(Face(Nobody()))
