"""The tracking store: its address, connecting to it, calls and what may go wrong with them."""
