"""Times for people."""

from __future__ import annotations

import datetime


def moment(seconds: float) -> str:
    """A time (unix seconds) as people write it, in UTC."""
    try:
        when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s of unix time"
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")
