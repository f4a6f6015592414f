"""The same stores as the engine's tests: one pair a file, one partition a test."""

from tests.engine.conftest import house, own_house, partitions, shop

__all__ = ["house", "own_house", "partitions", "shop"]
