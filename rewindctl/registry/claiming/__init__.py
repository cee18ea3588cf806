"""Which process a run belongs to."""
