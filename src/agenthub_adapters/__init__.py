"""What touches the world: files, OpenCode, the clock, metrics. Each module implements a port."""
