"""`sotto personas search`: find somebody to talk to, by words and by what is meant."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from pathlib import Path
from typing import Any

from personas.errors import PersonaError
from personas.files import load_persona
from personas.library import load_library
from personas.listing import Listing
from personas.search import MAX_LIMIT, RATINGS, Hit, Index, SearchQuery, SearchResult
from runtime.client.carrier import StreamLostError
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.search import search
from runtime.commands.common import (
    SIMULATED_LINE,
    add_home,
    add_way,
    carrier,
    dim,
    home_folder,
    load_policy,
    plain,
    print_json,
    say,
)
from runtime.enclave.engines.base import EngineError
from runtime.errors import Exit, SetupError, SottoError

_FACETS = ("tag", "language", "rating", "licence", "author")
_SHOWN_VALUES = 8
_SHOWN_WORDS = 5
_PASSAGE = 100


def add_parsers(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "search",
        help="find personas by words, by meaning and by what they are like",
        description="Searches the bundled personas and those that creators published. What you "
        "look for is sealed for an enclave, like everything that you say. Without a query: the "
        "newest, and what there is to choose by.",
    )
    parser.add_argument("query", nargs="*", help="words, or a question; misspelt is found too")
    parser.add_argument(
        "--tag", action="append", default=[], help="only those with this tag; repeatable: all"
    )
    parser.add_argument(
        "--any-tag", action="append", default=[], metavar="TAG", help="repeatable: one of these"
    )
    parser.add_argument("--language", default="", help="such as en, which finds en-GB too")
    parser.add_argument("--rating", choices=RATINGS, default="", help="at most this")
    parser.add_argument("--licence", default="", help="such as CC-BY-4.0")
    parser.add_argument("--author", default="", help="by this author")
    parser.add_argument("--similar", default="", metavar="HANDLE", help="those like this persona")
    parser.add_argument("--limit", type=int, default=10, help=f"at most {MAX_LIMIT} (default: 10)")
    parser.add_argument("--offset", type=int, default=0, help="leave out the first so many")
    parser.add_argument(
        "--offline", action="store_true", help="ask nobody: bundled personas and --folder alone"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        action="append",
        default=[],
        help="with --offline: also the personas (*.toml) of this folder",
    )
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    add_way(parser)
    add_home(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.folder and not args.offline:
        raise SottoError(
            "--folder needs --offline: your own files are not sent anywhere to be searched",
            exit_code=Exit.USAGE,
        )
    try:
        query = SearchQuery(
            text=" ".join(args.query),
            tags=tuple(args.tag),
            any_tags=tuple(args.any_tag),
            language=args.language,
            rating=args.rating,
            licence=args.licence,
            author=args.author,
            similar=args.similar,
            limit=args.limit,
            offset=args.offset,
        )
        found = _offline(query, args.folder) if args.offline else _online(args, query)
    except PersonaError as error:
        raise SottoError(str(error), code="search", exit_code=Exit.USAGE) from None
    if args.json:
        print_json(found.public())
    else:
        _show(query, found)
    return Exit.OK


def _offline(query: SearchQuery, folders: list[Path]) -> SearchResult:
    listings = {one.handle: Listing.of(one) for one in load_library()}
    for folder in folders:
        files = sorted(folder.glob("*.toml"))
        if not files:
            raise SottoError(
                f"{folder}: holds no persona; give a folder with *.toml files",
                exit_code=Exit.USAGE,
            )
        for one in map(load_persona, files):
            listings[one.handle] = Listing.of(one)
    from runtime.enclave.embedding.static import StaticEmbedder

    try:
        embed = StaticEmbedder().load().encode
    except EngineError as error:
        raise SetupError(str(error)) from None
    return Index.build(listings.values(), embed=embed).search(query)


def _online(args: argparse.Namespace, query: SearchQuery) -> SearchResult:
    policy, _ = load_policy(args)
    home = DeviceHome(home_folder(args))
    try:
        return asyncio.run(_ask(Device(home, policy, carrier(args)), query, quiet=args.json))
    except StreamLostError as error:
        raise SottoError(f"{error}; or search with --offline", code=error.code) from None
    finally:
        home.close()


async def _ask(device: Device, query: SearchQuery, *, quiet: bool) -> SearchResult:
    async with device:
        found = await search(device, query)
        if device.simulated and not quiet:
            sys.stderr.write(SIMULATED_LINE + "\n")
        return found


def _show(query: SearchQuery, found: SearchResult) -> None:
    """A table for people; what is in it was written by strangers."""
    asks = bool(query.text.strip() or query.similar)
    if found.suggestions:
        say(f"Did you mean: {_line(found.suggestions[0])}")
    if not found.hits:
        say("Nobody was found." if not query.offset else "There are no more.")
        if not query.offset:
            say(_advice(query))
        return
    width = max(len(hit.listing.handle) for hit in found.hits)
    for hit in found.hits:
        one = hit.listing
        private = " (private)" if one.private else ""
        say(f"{one.handle:<{width}}  {_line(one.name)}{private}: {_line(one.tagline)}")
        if why := _why(hit):
            say(f"{'':<{width}}  {dim(why)}")
    last = query.offset + len(found.hits)
    if found.total > last or query.offset:
        more = f" --offset {last} shows more." if found.total > last else ""
        say(f"\n{query.offset + 1} to {last} of {found.total}.{more}")
    if not asks:
        say()
        for name in _FACETS:
            if values := found.facets.get(name, ())[:_SHOWN_VALUES]:
                say(f"--{name:<9}" + ", ".join(f"{_line(value)} ({n})" for value, n in values))
    say(f"\nTalk to one: sotto chat {found.hits[0].listing.handle}")


def _why(hit: Hit) -> str:
    reasons = []
    if hit.words:
        reasons.append(", ".join(map(_line, hit.words[:_SHOWN_WORDS])))
    if hit.passage and hit.passage != hit.listing.tagline:
        told = _line(hit.passage)
        reasons.append(f"“{told if len(told) <= _PASSAGE else told[:_PASSAGE] + '…'}”")
    return " · ".join(reasons)


def _advice(query: SearchQuery) -> str:
    filters = [
        f"--{name.replace('_', '-')}"
        for name, given in (
            ("tag", query.tags),
            ("any_tag", query.any_tags),
            ("language", query.language),
            ("rating", query.rating),
            ("licence", query.licence),
            ("author", query.author),
        )
        if given
    ]
    if filters:
        return f"Leave out {' or '.join(filters)}, or see all: sotto personas search"
    return "Try other words or fewer, or see all: sotto personas search"


def _line(text: str) -> str:
    """Of strangers, on one line."""
    return re.sub(r"\s+", " ", plain(text)).strip()
