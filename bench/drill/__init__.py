"""The drill: a sale under faults, and a judge who believes nobody. See docs/guarantees.md."""
