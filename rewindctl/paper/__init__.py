"""The paper as data: its published numbers, its studies, its claims."""
