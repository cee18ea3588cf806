"""Proof by force: commands are killed and their disks fill up, until the time is over. Run by `make soak`."""
