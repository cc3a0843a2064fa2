"""The system's clock."""

from __future__ import annotations

from datetime import UTC, datetime


class SystemClock:
    """A `Clock` that says what the machine says."""

    def now(self) -> datetime:
        return datetime.now(UTC)
