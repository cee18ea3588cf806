"""What is asked of a registry or a machine: whether runs are intact, what there is to work with, how fast it is."""
