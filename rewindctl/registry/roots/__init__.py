"""Which store the files of an artifact root belong to, and how a copied or moved store gets its own."""
