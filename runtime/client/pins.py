"""What a device has seen of published handles: what was seen once cannot be taken back."""

from __future__ import annotations

from runtime.client.database import Database
from runtime.client.rows import HandlePin


class HandlePins:
    """The newest step of each handle that was seen and proven."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[HandlePin]:
        """Published handles that this device has seen, by name."""
        return self._database.select(HandlePin, "handles", "ORDER BY handle")

    def of(self, handle: str) -> HandlePin | None:
        """What this device has seen of a published handle."""
        found = self._database.select(HandlePin, "handles", "WHERE handle = ?", (handle,))
        return found[0] if found else None

    def keep(self, pin: HandlePin) -> None:
        """Remember a newer step of a handle; an older one than the one known is not taken."""
        self._database.insert(
            "handles",
            pin,
            "ON CONFLICT DO UPDATE SET key = excluded.key, number = excluded.number, "
            "step = excluded.step WHERE excluded.number > number",
        )
