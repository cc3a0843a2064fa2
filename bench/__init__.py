"""How fast the hub is, and what it costs: `python -m bench`."""
