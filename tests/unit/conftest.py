"""How hypothesis behaves here: in CI the same way each time, and nowhere with a deadline."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile(
    "unit", deadline=None, database=None, derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("unit")
