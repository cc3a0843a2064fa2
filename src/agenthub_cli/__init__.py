"""The command line: parses, builds, makes one call, and translates the result."""
