"""`sotto policy explain FILE`: what a policy accepts, in sentences."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from proofs.errors import PolicyError
from proofs.explain import explain
from proofs.policy import Policy
from runtime.commands.common import print_json, say
from runtime.errors import Exit, SetupError


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("policy", help="say what a policy accepts")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    shown = verbs.add_parser(
        "explain", help="say in sentences what passes, and what a careful reader should know"
    )
    shown.add_argument("file", type=Path, metavar="FILE", help="a policy file")
    shown.add_argument("--json", action="store_true", help="print JSON")
    shown.set_defaults(run=_explain)


def _explain(args: argparse.Namespace) -> int:
    try:
        explanation = explain(Policy.load(args.file))
    except PolicyError as error:
        raise SetupError(f"the policy {error}", code="policy") from None
    if args.json:
        print_json({"policy": str(args.file), **explanation.to_json()})
        return Exit.OK
    say(f"Under {args.file}:")
    for sentence in explanation.sentences:
        say(f"  {sentence}")
    if explanation.warnings:
        say("\nMind:")
        for warning in explanation.warnings:
            say(f"  ! {warning}")
    say("\nNo policy can say that an answer is true: a model can be wrong and attested.")
    return Exit.OK
