"""The runs of a registry: opened, written, read as they were finished, found."""
