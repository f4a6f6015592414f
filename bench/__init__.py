"""Measurements: each runs both of its sides in one run, and prints a ratio."""
