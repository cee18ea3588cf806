"""MLflow's own UI on our runs."""
