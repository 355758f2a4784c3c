"""A terminal to talk in: messages that are typed or pasted, and words that stream."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import termios
import unicodedata
from collections.abc import Iterator

from runtime.commands.common import dim, plain, say, wrapped

try:  # line editing and history for input()
    import readline
except ImportError:
    readline = None  # type: ignore[assignment]

_QUOTES = '"""'
# Nearly all that stands from here on takes two cells, and may be broken anywhere.
_WIDE = "\u2e80"
# A word, or as much of a very long one as is worth waiting for.
_PIECE = re.compile(rf"\s*(?:[{_WIDE}-\U0010ffff]|[^\s{_WIDE}-\U0010ffff]{{1,24}})")


def prepare() -> None:
    """Have pasted lines stay together until they are sent, where the line editor can."""
    if readline is not None:
        readline.parse_and_bind("set enable-bracketed-paste on")


def read_message(prompt: str) -> str:
    """One message: a line, pasted lines, or all that stands between two \"\"\".

    Raises:
        EOFError: There is no more.
        KeyboardInterrupt: Ctrl-C.
    """
    text = input(prompt)
    if text.startswith(_QUOTES):
        text = text.removeprefix(_QUOTES)
        while not text.rstrip().endswith(_QUOTES):
            text += "\n" + input("... ")
        text = text.rstrip().removesuffix(_QUOTES)
    return text.strip()


def tell(text: str) -> None:
    """Something that is not part of the conversation, below it."""
    say(dim(wrapped(plain(text), sys.stdout)))


def was_typing() -> bool:
    """Whether anything stood in the line that Ctrl-C has ended."""
    return readline is not None and readline.get_line_buffer() != ""


@contextlib.contextmanager
def keys_unseen() -> Iterator[None]:
    """What is typed meanwhile is not shown between the words; it waits for the next prompt."""
    try:
        before = termios.tcgetattr(sys.stdin)
    except (termios.error, ValueError):  # no terminal
        yield
        return
    quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


class Speech:
    """What one party says, as it comes; broken between words where a terminal shows it.

    Args:
        name: Stands before the first word.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._held = ""
        self._begun = False
        # Cells of the line that are filled.
        self._column = 0

    def say(self, text: str) -> None:
        """Words; on a terminal the last is held back until more of it, or another, comes."""
        if not self._begun:
            if not (text := text.lstrip()):
                return
            self._begun = True
            self._show(f"{self._name}> ")
        self._held += plain(text)
        if not sys.stdout.isatty():
            self._flush()
            return
        shown = 0
        for piece in _PIECE.finditer(self._held):
            if piece.end() == len(self._held):
                break
            self._fit(piece[0])
            shown = piece.end()
        self._held = self._held[shown:]

    def end(self, mark: str = "") -> None:
        """The last word and a mark behind it; the line is ended."""
        self._flush()
        if self._begun or mark:
            say(mark)
        self._begun, self._column = False, 0

    def note(self, text: str) -> None:
        """A line that is not part of what is said; words go on below it."""
        self.end()
        tell(text)

    def _flush(self) -> None:
        """Show what is held back."""
        if sys.stdout.isatty():
            for piece in _PIECE.finditer(self._held):
                self._fit(piece[0])
        elif self._held:
            self._show(self._held)
        self._held = ""

    def _fit(self, piece: str) -> None:
        word = piece.lstrip()
        gap = piece.removesuffix(word)
        width = shutil.get_terminal_size().columns
        if gap and "\n" not in gap and self._column + _cells(piece) > width:
            gap = "\n"
        self._show(gap + word)
        # A word that is too long for any line is broken by the terminal.
        self._column = (self._column - 1) % width + 1

    def _show(self, text: str) -> None:
        say(text, end="")
        _, newline, last = text.rpartition("\n")
        self._column = _cells(last) + (0 if newline else self._column)


def _cells(text: str) -> int:
    return sum(2 if one >= _WIDE else not unicodedata.combining(one) for one in text)
