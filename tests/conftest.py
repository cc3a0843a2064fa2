"""What all tests share: the kit, and a Ctrl-C that is heard."""

from __future__ import annotations

import signal

pytest_plugins = ["testkit.fixtures"]

# A shell starts what it runs in the background with SIGINT ignored; the programs under test would
# inherit that, and a test that presses Ctrl-C wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
