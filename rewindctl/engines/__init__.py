"""Where the stages of a plan run: local processes, a Ray cluster."""
