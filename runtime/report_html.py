"""A verification's page as one HTML file: no script, nothing loaded, everything escaped.

Its content security policy lets nothing run and nothing load even where an escape would be
missing: styles are inline and known by their digest.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape

from proofs.archive_report import Thread, Turn
from proofs.times import moment
from proofs.verdict import Status
from runtime.commands.common import SIMULATED_LINE
from runtime.report_page import NOT_SHOWN, Line, Page, speech

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #5b6570; --line: #d5dae0;
  --good: #116329; --bad: #a40e26; --open: #7a5200; --card: #f6f8fa; --warn: #fff3cd;
  --warn-ink: #664d03; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --paper: #14171b; --soft: #9aa5b1;
  --line: #343b44; --good: #56d364; --bad: #ff7b72; --open: #e3b341; --card: #1c2127;
  --warn: #4a3b07; --warn-ink: #ffe08a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 52rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .75rem; padding-bottom: .25rem;
  border-bottom: 1px solid var(--line); }
p { margin: .25rem 0; }
.outcome { font-size: 1.25rem; font-weight: 700; }
.holds { color: var(--good); } .fails { color: var(--bad); } .not_checked { color: var(--open); }
.simulated { margin: 1rem 0; padding: .75rem 1rem; border-left: 4px solid var(--open);
  background: var(--warn); color: var(--warn-ink); font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 1rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
ol.steps { list-style: none; margin: 0; padding: 0; }
ol.steps li { display: grid; grid-template-columns: 2.25rem 1fr max-content; gap: 0 .5rem;
  padding: .6rem 0; border-bottom: 1px solid var(--line); break-inside: avoid; }
.number { color: var(--soft); text-align: right; font-variant-numeric: tabular-nums; }
.title { font-weight: 600; } .told { font-weight: 600; text-align: right; }
.detail { grid-column: 2 / 4; overflow-wrap: anywhere; }
.meaning { grid-column: 2 / 4; color: var(--soft); font-size: .92rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .5rem .75rem .5rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; } td:first-child { font-weight: 600; }
tr { break-inside: avoid; }
td { min-width: 5.5rem; } td:first-child { min-width: 6.5rem; overflow-wrap: normal; }
.mono { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .86rem; }
.turn { margin: 0 0 1.25rem; padding: .75rem 1rem; background: var(--card); border-radius: .4rem; }
.turn h3 { margin: 0 0 .5rem; font-size: .85rem; font-weight: 400; color: var(--soft);
  overflow-wrap: anywhere; }
.who { color: var(--soft); font-size: .85rem; margin-top: .5rem; }
.words { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate;
  font: inherit; }
.unproven { border: 1px solid var(--line); border-radius: .4rem; padding: .75rem 1rem; }
.unproven ul { margin: 0; padding-left: 1.25rem; }
.unproven li { margin: .35rem 0; }
footer { margin-top: 2rem; color: var(--soft); font-size: .85rem; }
@media (max-width: 36rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
@media print { :root { --ink: #000; --paper: #fff; --soft: #444; --line: #bbb; --good: #064;
  --bad: #900; --open: #630; --card: #fff; --warn: #fff; --warn-ink: #000; }
  main { max-width: none; padding: 0; } body { font-size: 10.5pt; }
  .turn { border: 1px solid var(--line); } h2 { break-after: avoid; } }
"""


def render_html(page: Page) -> str:
    """The page as an HTML document."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{_text(page.headline)}</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        "<main>",
        *_head(page),
        *_steps("Steps", page.steps),
        *_findings(page),
        *_threads(page.threads),
        *_steps("Steps of the receipts, summed", page.inner),
        *_verdicts(page.verdicts),
        *_said(page),
        *_unproven(page),
        *_fields(page),
        "<footer>Written by <code>sotto verify</code>, without network. Whoever has the same file, "
        "policy and time gets the same result.</footer>",
        "</main>",
        "</body>",
        "</html>",
        "",
    ]
    return "\n".join(parts)


def _text(text: str) -> str:
    """`text` as characters of a document, whoever wrote them.

    Control characters have no place in HTML; directional ones stay, as many scripts need them,
    and reach no further than the element that isolates them.
    """
    clean = "".join(c if c >= " " or c in "\n\t" else "\ufffd" for c in text)
    return escape("".join("\ufffd" if "\x7f" <= c <= "\x9f" else c for c in clean), quote=True)


def _head(page: Page) -> list[str]:
    status = Status.HOLDS if page.holds else Status.FAILS
    facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in page.facts)
    return [
        "<header>",
        f"<h1>{_text(page.what)}</h1>",
        f'<p class="outcome {status}">{_text(page.outcome)}</p>',
        *([f'<p class="simulated">{_text(SIMULATED_LINE)}</p>'] if page.simulated else []),
        f"<dl>{facts}</dl>",
        "</header>",
    ]


def _steps(title: str, lines: tuple[Line, ...]) -> list[str]:
    if not lines:
        return []
    return [f"<h2>{title}</h2>", '<ol class="steps">', *map(_step, lines), "</ol>"]


def _step(line: Line) -> str:
    detail = f'<div class="detail">{_text(line.detail)}</div>' if line.detail else ""
    return (
        f'<li><span class="number">{line.number}</span>'
        f'<span class="title">{_text(line.title)}</span>'
        f'<span class="told {line.status}">{_text(line.told)}</span>{detail}'
        f'<div class="meaning">{line.lead}: {_text(line.meaning)}</div></li>'
    )


def _verdicts(lines: tuple[Line, ...]) -> list[str]:
    if not lines:
        return []
    rows = (
        f'<tr><td>{_text(one.title)}</td><td class="{one.status}">{_text(one.told)}</td>'
        f"<td>{_verdict(one)}</td></tr>"
        for one in lines
    )
    return [
        "<h2>Verdicts</h2>",
        '<div class="wide"><table>',
        "<tr><th>About</th><th>Verdict</th><th>What it says</th></tr>",
        *rows,
        "</table></div>",
    ]


def _verdict(line: Line) -> str:
    told = [line.detail] if line.detail else []
    if line.status is Status.HOLDS:
        told += [f"Proves: {line.meaning}", f"Does not prove: {line.unproven}"]
    return "".join(f"<p>{_text(one)}</p>" for one in told)


def _threads(threads: tuple[Thread, ...]) -> list[str]:
    if not threads:
        return []
    return [
        "<h2>Threads</h2>",
        '<div class="wide"><table>',
        "<tr><th>Thread</th><th>Receipts</th><th>From</th><th>To</th><th>Findings</th></tr>",
        *(
            f"<tr><td>{one.number}</td><td>{one.receipts}</td><td>{_text(moment(one.first))}</td>"
            f"<td>{_text(moment(one.last))}</td><td>{_links(one)}</td></tr>"
            for one in threads
        ),
        "</table></div>",
    ]


def _links(thread: Thread) -> str:
    told = [
        (Status.FAILS, "contradiction", thread.contradictions),
        (Status.FAILS, "gap", thread.gaps),
        (Status.NOT_CHECKED, "note", thread.notes),
    ]
    found = [
        f'<p class="{status}">{mark}: {_text(text)}</p>'
        for status, mark, texts in told
        for text in texts
    ]
    return "".join(found) or "none"


def _findings(page: Page) -> list[str]:
    if not page.findings:
        return []
    left = page.findings_total - len(page.findings)
    return [
        "<h2>What does not hold, worst first</h2>",
        '<div class="wide"><table>',
        "<tr><th>About</th><th>Where</th><th>Found</th></tr>",
        *(
            f'<tr><td class="fails">{_text(one.subject)}</td>'
            f'<td class="mono">{_text(one.where)}</td><td>{_text(one.detail)}</td></tr>'
            for one in page.findings
        ),
        "</table></div>",
        *([f"<p>and {left} more</p>"] if left > 0 else []),
    ]


def _said(page: Page) -> list[str]:
    if not page.said and not page.unsaid:
        return []
    left = [f"<p>{NOT_SHOWN}: {page.unsaid}</p>"] if page.unsaid else []
    return ["<h2>What was said</h2>", *map(_turn, page.said), *left]


def _turn(turn: Turn) -> str:
    words = "".join(
        f'<div class="who">{who}</div><pre class="words" dir="auto">\n{_text(text)}</pre>'
        for who, text in speech(turn)
    )
    head = f"{_text(moment(turn.time))}, receipt {_text(turn.receipt_id)}"
    return f'<article class="turn"><h3>{head}</h3>{words}</article>'


def _unproven(page: Page) -> list[str]:
    items = "".join(f"<li>{_text(text)}</li>" for text in page.not_proven)
    return [f'<h2>What is not proven</h2><div class="unproven"><ul>{items}</ul></div>']


def _fields(page: Page) -> list[str]:
    if not page.fields:
        return []
    rows = "".join(
        f'<tr><td>{_text(name)}</td><td class="mono">{_text(value)}</td></tr>'
        for name, value in page.fields
    )
    return [
        "<h2>The receipt</h2>",
        f'<div class="wide"><table><tr><th>Field</th><th>Value</th></tr>{rows}</table></div>',
    ]
