"""A verification's page as text for a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable

from proofs.archive_report import Turn
from proofs.times import moment
from proofs.verdict import Status
from runtime.commands.common import SIMULATED_LINE, plain, say
from runtime.report_page import NOT_SHOWN, Line, Page, speech

_COLOURS = {Status.HOLDS: "32", Status.FAILS: "1;31", Status.NOT_CHECKED: "33"}
_MAX_WIDTH = 100
_Paint = Callable[[str, str], str]


def print_page(page: Page) -> None:
    """Print a page for people; in colour on a terminal that can."""
    for line in render(page, _width(), colour=_has_colour()):
        say(line)


def render(page: Page, width: int, *, colour: bool = False) -> list[str]:
    """A page as lines of at most `width` characters, without control characters but colour's."""

    def paint(text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if colour and text else text

    out = [paint(plain(page.headline), "1" if page.holds else "1;31")]
    if page.simulated:
        out += (paint(line, "1;33") for line in _wrap(SIMULATED_LINE, width, ""))
    out.append("")
    for name, value in page.facts:
        out += _wrap(value, width, f"{name:<9} ", " " * 10)
    out += _step_section("Steps", page.steps, width, paint)
    out += _archive_lines(page, width, paint)
    out += _step_section("Steps of the receipts, summed", page.inner, width, paint)
    out += _section("Verdicts", paint) if page.verdicts else []
    for line in page.verdicts:
        out += _verdict_lines(line, width, paint)
    if page.said or page.unsaid:
        out += _section("What was said", paint)
        for turn in page.said:
            out += _said_lines(turn, width)
        if page.unsaid:
            out += _wrap(f"{NOT_SHOWN}: {page.unsaid}", width, "")
    out += _section("What is not proven", paint)
    for text in page.not_proven:
        out += _wrap(text, width, "- ", "  ")
    return out


def _section(title: str, paint: _Paint) -> list[str]:
    return ["", paint(title, "1"), ""]


def _step_section(title: str, lines: tuple[Line, ...], width: int, paint: _Paint) -> list[str]:
    out = _section(title, paint) if lines else []
    for line in lines:
        out += _step_lines(line, width, paint)
    return out


def _step_lines(line: Line, width: int, paint: _Paint) -> list[str]:
    dots = "." * max(2, width - 6 - len(line.title) - len(line.told))
    head = f"{line.number:>2}. {line.title} {paint(dots, '2')} "
    out = [head + paint(line.told, _COLOURS[line.status])]
    out += _wrap(line.detail, width, "    ")
    out += (paint(text, "2") for text in _wrap(line.meaning, width, f"    {line.lead}: ", " " * 8))
    return out


def _verdict_lines(line: Line, width: int, paint: _Paint) -> list[str]:
    out = [f"{line.title:<11} {paint(line.told, _COLOURS[line.status])}"]
    out += _wrap(line.detail, width, "  found:    ", " " * 12)
    if line.status is Status.HOLDS:
        out += _wrap(line.meaning, width, "  proves:   ", " " * 12)
        out += _wrap(line.unproven, width, "  does not: ", " " * 12)
    return out


def _archive_lines(page: Page, width: int, paint: _Paint) -> list[str]:
    out: list[str] = []
    if page.findings:
        out += _section("What does not hold, worst first", paint)
        for finding in page.findings:
            out += _wrap(f"{finding.subject}: {finding.detail}", width, f"{finding.where}  ", "  ")
        if (left := page.findings_total - len(page.findings)) > 0:
            out.append(f"and {left} more")
    if page.threads:
        out += _section("Threads", paint)
        for one in page.threads:
            text = f"{one.receipts} receipts, {moment(one.first)} to {moment(one.last)}"
            out += _wrap(text, width, f"{one.number:>4}: ", " " * 6)
            for mark, texts in (
                ("contradiction", one.contradictions),
                ("gap", one.gaps),
                ("note", one.notes),
            ):
                for told in texts:
                    out += _wrap(told, width, f"      {mark}: ", " " * 8)
    return out


def _said_lines(turn: Turn, width: int) -> list[str]:
    out = [f"{moment(turn.time)}, receipt {turn.receipt_id}"]
    for who, text in speech(turn):
        out.append(f"  {who}:")
        for line in plain(text).expandtabs(4).split("\n"):
            out += _wrap(line, width, "    ") or [""]
    return out


def _wrap(text: str, width: int, first: str, rest: str | None = None) -> list[str]:
    text = plain(text).replace("\n", " ")
    after = first if rest is None else rest
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=after, break_on_hyphens=False
    )


def _width() -> int:
    columns = shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 80
    return max(40, min(columns, _MAX_WIDTH))


def _has_colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
