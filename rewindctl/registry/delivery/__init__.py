"""What a run writes, on its way to a store that may be unreachable."""
