"""Media types and problem types of Oblivious HTTP (RFC 9458, chunked OHTTP draft)."""

from __future__ import annotations

from typing import Final

OHTTP_REQUEST: Final = "message/ohttp-req"
OHTTP_RESPONSE: Final = "message/ohttp-res"
OHTTP_CHUNKED_REQUEST: Final = "message/ohttp-chunked-req"
OHTTP_CHUNKED_RESPONSE: Final = "message/ohttp-chunked-res"
OHTTP_KEYS: Final = "application/ohttp-keys"
PROBLEM_JSON: Final = "application/problem+json"

PROBLEM_OHTTP_KEY: Final = "https://iana.org/assignments/http-problem-types#ohttp-key"
"""The gateway does not hold the key that sealed the request (RFC 9458 section 5.3)."""
PROBLEM_DATE: Final = "https://iana.org/assignments/http-problem-types#date"
"""The request's date is outside the gateway's window (RFC 9458 section 6.5.2)."""

REQUEST_TYPES: Final = frozenset({OHTTP_REQUEST, OHTTP_CHUNKED_REQUEST})
CHUNKED_TYPES: Final = frozenset({OHTTP_CHUNKED_REQUEST, OHTTP_CHUNKED_RESPONSE})
