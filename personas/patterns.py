"""Regular expressions of lorebooks, read by RE2: time linear in the text, memory bounded.

Cards write them as JavaScript does, `/pattern/flags` or the pattern alone.
"""

from __future__ import annotations

import re
from typing import Any, Final

import re2  # type: ignore[import-untyped]

MAX_PATTERN: Final = 2_048
"""Characters."""
_MAX_MEMORY: Final = 1 << 17  # bytes of a compiled pattern and of what it learns of a text
_SLASHED: Final = re.compile(r"/(.+)/([a-zA-Z]*)", re.DOTALL)
# JavaScript's spelling of what RE2 spells otherwise.
_ESCAPES: Final = re.compile(
    r"\\u\{([0-9a-fA-F]{1,6})\}|\\u([0-9a-fA-F]{4})|\\c([A-Za-z])|(\[\^\])|\\.", re.DOTALL
)


class BadPatternError(ValueError):
    """RE2 cannot read the pattern, or it exceeds a limit; the message continues a sentence."""

    def __init__(self, message: str, *, limit: bool = False) -> None:
        super().__init__(message)
        self.limit = limit


class Pattern:
    """A compiled pattern."""

    __slots__ = ("_compiled", "size")

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self.size: int = compiled._regexp.ProgramSize()
        """Instructions: where memory runs out, each costs time at every byte."""

    def search(self, text: bytes) -> bool:
        """Whether the pattern matches anywhere in the text, which is UTF-8."""
        return self._compiled.search(text) is not None


def is_slashed(key: str) -> bool:
    """Whether a key is written as `/pattern/flags`."""
    return _SLASHED.fullmatch(key.strip()) is not None


def compile_pattern(source: str, *, ignore_case: bool = False) -> Pattern:
    """Compile `/pattern/flags` or a bare pattern. Raises BadPatternError.

    Of JavaScript's flags, i, m and s count; g, u, v, y and d change nothing about whether a
    pattern matches.
    """
    if len(source) > MAX_PATTERN:
        raise BadPatternError(
            f"the pattern has {len(source)} characters, more than the {MAX_PATTERN} allowed; an "
            "entry with it never matches: write it as several keys",
            limit=True,
        )
    slashed = _SLASHED.fullmatch(source.strip())
    pattern, flags = (slashed[1], slashed[2]) if slashed else (source, "i" if ignore_case else "")
    if set(flags) - set("imsguvyd"):
        raise BadPatternError("the pattern has a flag that JavaScript does not know")
    if not pattern:
        raise BadPatternError("the pattern is empty")
    prefix = "".join(sorted(set(flags) & set("ims")))
    pattern = _ESCAPES.sub(_translate, pattern)
    options = re2.Options()
    options.max_mem = _MAX_MEMORY
    options.log_errors = False
    options.never_capture = True
    try:
        return Pattern(re2.compile(f"(?{prefix}){pattern}" if prefix else pattern, options))
    # Besides its own error, the wrapper lets through those of encoding half a surrogate pair.
    except (re2.error, ValueError) as error:
        reason = error.args[0] if error.args else "unknown"
        reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        # What RE2 quotes after the colon is the pattern.
        large = "too large" in reason
        remedy = (
            "with fewer repetitions and classes of letters, or as several keys"
            if large
            else "without lookaround and references back"
        )
        raise BadPatternError(
            f"the pattern is not one that RE2 reads ({reason.partition(':')[0]}); an entry with it "
            f"never matches: write it {remedy}",
            limit=large,
        ) from None


def _translate(found: re.Match[str]) -> str:
    if found[1] or found[2]:
        return f"\\x{{{found[1] or found[2]}}}"
    if found[3]:
        return f"\\x{ord(found[3]) % 32:02x}"
    return r"[\s\S]" if found[4] else found[0]
