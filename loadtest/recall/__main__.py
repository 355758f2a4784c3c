"""`python -m loadtest.recall`: the whole evaluation, as a table or as JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.attack import find_data
from loadtest.recall.bench import HISTORIES, TURNS, measure
from loadtest.recall.evaluation import as_json, as_table
from loadtest.recall.histories import Half
from loadtest.recall.systems import EXTRACTORS
from loadtest.rounds import progress
from runtime.commands.common import print_json, say
from runtime.errors import Exit, SetupError, SottoError


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate; the exit code."""
    args = _parser().parse_args(argv)
    try:
        path = find_data(args.dialogues)
        if path is None:
            raise SetupError(
                "the histories are made of dialogues; name a CSV of Synthetic-Persona-Chat with "
                "--dialogues, or its folder in SOTTO_DATA",
                code="dialogues",
            )
        found = measure(
            path,
            Half(args.half),
            histories=args.histories,
            turns=args.turns,
            extract=EXTRACTORS[args.extractor],
        )
    except SottoError as error:
        progress(f"recall: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    if args.json:
        print_json(as_json(found))
    else:
        say(as_table(found))
    return Exit.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.recall", description=__doc__)
    parser.add_argument(
        "--half",
        choices=[half.value for half in Half],
        default=Half.HELD_OUT.value,
        help="wordings and dialogues; nothing was tuned on the held-out ones (%(default)s)",
    )
    parser.add_argument(
        "--histories", type=_positive, default=HISTORIES, metavar="N", help="(%(default)s)"
    )
    parser.add_argument(
        "--turns", type=_positive, default=TURNS, metavar="N", help="of each (%(default)s)"
    )
    parser.add_argument(
        "--extractor",
        choices=EXTRACTORS,
        default=next(iter(EXTRACTORS)),
        help="what finds facts in a message (%(default)s)",
    )
    parser.add_argument(
        "--dialogues",
        type=Path,
        metavar="FILE",
        help="CSV of Synthetic-Persona-Chat (in SOTTO_DATA)",
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of the table")
    return parser


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() and len(text) < 7 else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 999999")
    return value


if __name__ == "__main__":
    sys.exit(main())
