"""Delivery of a run's results to a store that may be unreachable."""
