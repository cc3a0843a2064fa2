"""How hypothesis behaves here: in CI the same way each time, and nowhere with a deadline."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "unit",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine is no fault of the code
    database=None,
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("unit")
