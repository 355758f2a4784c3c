"""The rule for gateways' names: one path segment, one host name, one target on a link."""

from __future__ import annotations

from typing import Final

GATEWAY_NAME: Final = r"[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?"
"""A regular expression for the whole name: the host of a gateway's URL is one."""
