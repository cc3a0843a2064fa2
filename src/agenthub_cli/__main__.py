"""`python -m agenthub_cli` is the same as `agenthub`."""

from agenthub_cli.main import app

if __name__ == "__main__":
    app()
