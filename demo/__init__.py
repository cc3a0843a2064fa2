"""Two agents, the hub between them, and nothing left behind: `python -m demo`."""
