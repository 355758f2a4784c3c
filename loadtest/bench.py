"""`make bench`: performance as ratios of two things that take turns in one session.

Never a time alone: docs/performance.md says what is compared with what, and why.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import uvloop

from loadtest.attack import attack
from loadtest.bench_evidence import evidence
from loadtest.bench_functions import seal, verify
from loadtest.bench_log import log
from loadtest.bench_memory import memory
from loadtest.bench_path import path
from loadtest.bench_receipts import receipts
from loadtest.bench_relay import relay
from loadtest.bench_search import search
from loadtest.recall.bench import recall
from loadtest.rounds import Comparison, Effort, progress
from runtime.commands.common import print_json, say
from runtime.errors import Exit, SottoError

FULL = Effort(rounds=7, slice_s=0.1, streams=(1, 16, 64), turns=3, tokens=32)
QUICK = Effort(rounds=5, slice_s=0.02, streams=(1, 16), turns=1, tokens=16)

BENCHES: dict[str, Callable[[Effort], Iterator[Comparison] | AsyncIterator[Comparison]]] = {
    "seal": seal,
    "verify": verify,
    "evidence": evidence,
    "log": log,
    "path": path,
    "receipts": receipts,
    "relay": relay,
    "search": search,
    "shaping": attack,
    "memory": memory,
    "recall": recall,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benches; the exit code."""
    args = _parser().parse_args(argv)
    names = args.only or list(BENCHES)
    effort = QUICK if args.quick else FULL
    try:
        if args.out is not None:
            args.out.open("ab").close()  # minutes should not be lost to a typing error
        machine = _machine()
        found = {name: uvloop.run(_collect(name, effort)) for name in names}
        document = as_json(found, effort, machine)
        if args.out is not None:
            args.out.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    except OSError as error:
        progress(f"bench: {error}; choose another --out, or set TMPDIR")
        return Exit.USAGE
    except SottoError as error:
        progress(f"bench: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    if args.json:
        print_json(document)
    else:
        say(as_table(found, effort, machine))
    return Exit.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=BENCHES, help="this bench; repeatable")
    parser.add_argument(
        "--quick", action="store_true", help="less work in each round, no 64 streams"
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of the table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON to a file too")
    return parser


async def _collect(name: str, effort: Effort) -> list[Comparison]:
    bench = BENCHES[name](effort)
    return list(bench) if isinstance(bench, Iterator) else [one async for one in bench]


def _machine() -> dict[str, Any]:
    """Where and next to what this was measured."""
    return {
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def as_json(
    found: dict[str, list[Comparison]], effort: Effort, machine: dict[str, Any]
) -> dict[str, Any]:
    """Every round, and what the table says of them."""
    return {
        "machine": machine,
        "effort": asdict(effort),
        "benches": {
            name: [
                {
                    **asdict(one),
                    "ratio": asdict(one.ratio),
                    "added": asdict(one.added),
                    "ours": asdict(one.ours),
                    "other": asdict(one.other),
                }
                for one in comparisons
            ]
            for name, comparisons in found.items()
        },
    }


def as_table(found: dict[str, list[Comparison]], effort: Effort, machine: dict[str, Any]) -> str:
    """Medians of the rounds, and the lowest and highest ratio of any of them."""
    lines = [
        f"{effort.rounds} rounds of A B · {machine['cores']} cores, load "
        f"{machine['load_before']:.1f} before · Python {machine['python']} · {machine['system']}"
    ]
    for name, comparisons in found.items():
        lines += ["", _line(name, "against", "ours", "other", "ratio", "low – high", "added", "")]
        lines += [_row(one) for one in comparisons]
    return "\n".join(lines)


def _row(one: Comparison) -> str:
    ratio = one.ratio
    return _line(
        f"  {one.name}",
        one.against,
        _figure(one.ours.median),
        _figure(one.other.median),
        f"{ratio.median:.2f}",
        f"{ratio.low:.2f} – {ratio.high:.2f}",
        _figure(one.added.median, "+"),
        one.unit,
    )


def _figure(value: float, sign: str = "") -> str:
    """Three digits that mean something."""
    return f"{value:{sign}.0f}" if abs(value) >= 100 else f"{value:{sign}.3g}"


def _line(*cells: str) -> str:
    widths = ("<40", "<20", ">9", ">9", ">8", ">16", ">9", "")
    return " ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


if __name__ == "__main__":
    sys.exit(main())
