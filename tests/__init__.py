"""The Python tests. A package, so that `pytest tests/` finds the checkout it belongs to."""
