"""What JSON Schema cannot say of our requests, said to schemathesis."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def map_body(_context: Any, body: Any) -> Any:
    """An integer is written without a fraction: to JSON Schema, ``1.0`` is one too."""
    if not isinstance(body, dict):
        return body
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in body.items()
    }
