"""What a caller may be allowed."""

from __future__ import annotations

from enum import StrEnum


class Permission(StrEnum):
    """What a caller may be allowed: the scopes of a key or of a JWT."""

    RESERVE = "reserve"
    """Take seats and give them back."""
    READ = "read"
    """Look at events, bookings and a user's statistics."""
    METRICS = "metrics"
    """Scrape what Prometheus reads."""
    ADMIN = "admin"
    """What an operator does."""
