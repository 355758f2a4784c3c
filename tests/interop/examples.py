"""The examples of the page for people who bring their own client."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

PAGE = Path(__file__).parents[2] / "docs" / "bring-your-own-client.md"
# Where `make run` has its relay.
_USUAL = "127.0.0.1:8471"


def page_example(language: str, relay: str) -> str:
    """The page's blocks in `language` as they are written, but for the relay's port."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    example = "".join(blocks)
    assert example.count(_USUAL) == 1
    return example.replace(_USUAL, urlsplit(relay).netloc)
