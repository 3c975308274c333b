"""Column types: UTC times, and metrics that may be NaN or infinite.

SQLite stores NaN as NULL and PostgreSQL's JSON rejects it, so non-finite metrics are written by name.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json
from sqlalchemy import JSON, DateTime
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator


class UtcTime(TypeDecorator[datetime]):
    """A timezone-aware UTC time; databases without time zones store it without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Reject naive times and convert all others to UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without a time zone: {value}")
        utc = value.astimezone(UTC)
        return utc if dialect.name == "postgresql" else utc.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return a timezone-aware time."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Metrics(TypeDecorator[dict[str, float]]):
    """A mapping of names to floats in which NaN and the infinities survive."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: dict[str, float] | None, dialect: Dialect) -> Any:
        """Write non-finite values by name."""
        return {k: v if math.isfinite(v) else str(v) for k, v in (value or {}).items()}

    def process_result_value(self, value: Any, dialect: Dialect) -> dict[str, float]:
        """Read names back as floats."""
        return {k: float(v) for k, v in (value or {}).items()}


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Return what `Metrics` stores, as text: for many rows at once."""
    return to_json(metrics, inf_nan_mode="strings").decode()
