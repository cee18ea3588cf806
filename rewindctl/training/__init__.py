"""One training loop and the recipes it follows. Knows nothing of MLflow, the command line or run files."""
