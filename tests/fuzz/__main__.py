"""Fuzzing with coverage: `python tests/fuzz [TARGET...] [--seconds N]`; see docs/fuzzing.md.

Exit codes: 0 nothing found; 1 a finding, whose input was saved; 2 wrong arguments, or no atheris.
"""
# ruff: noqa: T201 - a command prints

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from fuzz_runner import Outcome, fuzz
from fuzz_targets import TARGETS, write_seeds


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: every target")
    parser.add_argument("--seconds", type=int, default=10, help="time for each target (10)")
    parser.add_argument("--runs", type=int, help="inputs to try for each, in place of a time")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument(
        "--corpus",
        type=Path,
        default=Path("build/fuzz"),
        metavar="FOLDER",
        help="takes new inputs and findings (build/fuzz)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per target")
    parser.add_argument("--list", action="store_true", help="name the targets and stop")
    parser.add_argument("--seeds", action="store_true", help="make the kept seeds anew and stop")
    parser.add_argument(
        "--samples", action="store_true", help="sign the samples anew, then make every seed anew"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """The command."""
    options = _parse(arguments)
    if options.samples:
        # Its machines draw keys, which no target needs.
        from fuzz_samples import write_samples

        write_samples()
        # What was read before is out of date: seeds are made of samples.
        return subprocess.call([sys.executable, str(Path(__file__).parent), "--seeds"])
    names = options.targets or list(TARGETS)
    if unknown := set(names) - TARGETS.keys():
        print(f"no target is named {', '.join(sorted(unknown))}; see --list", file=sys.stderr)
        return 2
    if options.list or options.seeds:
        for name in names:
            if options.seeds:
                write_seeds(name)
            print(name)
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed; `make fuzz` installs it", file=sys.stderr)
        return 2
    outcomes = []
    for name in names:
        outcome = fuzz(
            name,
            seconds=0 if options.runs else options.seconds,
            runs=options.runs or -1,
            seed=options.seed,
            folder=options.corpus,
        )
        _report(outcome, as_json=options.json)
        outcomes.append(outcome)
    return 1 if any(outcome.finding for outcome in outcomes) else 0


def _report(outcome: Outcome, *, as_json: bool) -> None:
    fields = asdict(outcome)
    log = fields.pop("log")
    if as_json:
        print(json.dumps(fields), flush=True)
    else:
        print(
            f"{outcome.target:24} {outcome.runs:8} runs {outcome.coverage:5} edges "
            f"{outcome.corpus:5} inputs {outcome.new:5} new",
            flush=True,
        )
    if outcome.finding is not None:
        print(
            f"{log[-4000:]}\n{outcome.target}: FOUND {outcome.finding}", file=sys.stderr, flush=True
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
