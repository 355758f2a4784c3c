"""Any file for `sotto verify`: a report that can be shown, or what is wrong."""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Iterable
from functools import cache

import orjson
from fuzz_support import Target, archives, file_of, mutate, sample, stories

from proofs import cbor
from proofs.checkpoint import Checkpoint
from proofs.errors import ProofError
from proofs.evidence.base import Collateral
from proofs.note import Signer
from runtime.collateral import StoredCollateral
from runtime.commands.verify import make_page, to_json
from runtime.recognise import Terms, verify_file
from runtime.report_html import render_html
from runtime.report_text import render


def _odd_log() -> str:
    """A checkpoint of a log whose name a terminal would obey."""
    signer = Signer("log.example/\u009b31m<b>", stories().private_key(9))
    return signer.sign(Checkpoint(signer.name, 3, b"r" * 32).format()).format()


@cache
def _files() -> list[bytes]:
    """One of every kind of file there is."""
    told = stories().full_story()
    _, quote, _ = cbor.decode(sample("tdx"), what="it", limit=2**16)  # type: ignore[misc]
    _, report, *_ = cbor.decode(sample("snp"), what="it", limit=2**16)  # type: ignore[misc]
    _, _, ((arch, chain, exchange),), *_ = cbor.decode(  # type: ignore[misc]
        sample("nvidia"), what="it", limit=2**16
    )
    entry = {
        "arch": arch,
        "certificate": base64.b64encode(chain).decode(),
        "evidence": base64.b64encode(exchange).decode(),
        "nonce": exchange[4:36].hex(),
    }
    bundle = {"bundle": base64.b64encode(told.bundle).decode(), "proof": told.bundle_proof}
    return [
        told.disclosure(),
        archives().Conversation.of(2, forgotten=True).archive(with_text=True),
        told.bundle,
        json.dumps(bundle).encode(),
        json.dumps([entry]).encode(),
        _odd_log().encode(),
        quote,
        report,
        *(sample(name) for name in ("nvidia", "snp", "tdx")),
    ]


@cache
def _terms() -> Terms:
    _, _, certificates, crls = cbor.decode(  # type: ignore[misc]
        sample("snp"), what="it", limit=2**16
    )
    stored = StoredCollateral(Collateral(snp_crls=tuple(crls)), tuple(certificates))
    return Terms(stories().full_story().policy, archives().LATER, stored, keep_said=True)


def _recognise(data: bytes) -> None:
    """Any file, or by its first byte one of ours with bytes changed: a report that can be shown."""
    files = _files()
    chosen = data and data[0] < len(files)
    with file_of(mutate(files[data[0]], data[1:]) if chosen else data) as path:
        try:
            verified = verify_file(path, _terms())
        except ProofError:
            return
    orjson.dumps(to_json(verified, "a policy"))
    page = make_page(verified, "a policy")
    shown = "".join(render(page, 80))
    assert not any(unicodedata.category(character) == "Cc" for character in shown)
    markup = render_html(page)
    assert "<b>" not in markup
    assert "<script" not in markup


def _recognise_seeds() -> Iterable[bytes]:
    yield from (bytes((which,)) for which in range(len(_files())))
    yield from (
        b"{}",
        b"[]",
        b"c2sp.org/tlog-proof@v1\n",
        b"\xd2\x84",
        b"\x04\x00\x02\x00\x81\0\0\0",
    )


TARGETS = {
    "recognise": Target(_recognise, _recognise_seeds, 64, 80),
}
