"""`sotto verify`: whatever file is given, as people, programs and browsers see it."""

from __future__ import annotations

import json
import os
import random
import re
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from proofs import b64
from proofs.archive import BundleRecord, Header, Kind, ReceiptRecord
from proofs.bundle import bundle_entry, decode_bundle, make_bundle
from proofs.disclosure import Disclosure, Said, decode_disclosure, encode_disclosure
from proofs.ed25519 import raw_public
from proofs.evidence.base import gpu_nonce, report_data
from proofs.receipt import commitment, receipt_entry, sign_receipt
from runtime.cli import main
from runtime.commands.verify import make_page
from runtime.recognise import Terms, verify_file
from runtime.report_page import Page
from runtime.report_text import render
from tests.proofs.archive_support import LATER, Conversation, Log, write
from tests.proofs.attestation_files import attestation
from tests.proofs.proofs_support import (
    LOG,
    MEASUREMENTS,
    NOW,
    RECEIPT_KEY,
    ROOT,
    claims,
    platform,
    policy,
    receipt,
)

HOSTILE = (
    "</pre></article><script>alert(1)</script><img src=x onerror=alert(1)>"
    "\x1b]52;c;aGk=\x07\u202e&lt;b&gt; \"quoted' \x00\x9b2J"
)
Command = Callable[..., tuple[int, str, str]]
Files = dict[str, Path]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """`sotto verify` in this process: exit code, standard output, standard error."""
    rules = tmp_path / "policy.toml"
    measured = ", ".join(f'"{name}" = "{value.hex()}"' for name, value in MEASUREMENTS)
    rules.write_text(
        f'allow_simulated = true\nsimulated_roots = ["{raw_public(ROOT).hex()}"]\n'
        f'measurements = [{{ {measured} }}]\nlog_keys = ["{LOG.verifier.format()}"]\n'
    )

    def run(*arguments: object, at: int = LATER) -> tuple[int, str, str]:
        options = ["--policy", str(rules), "--home", str(tmp_path / "none"), "--at", str(at)]
        with pytest.raises(SystemExit) as ended:
            main(["verify", *map(str, arguments), *options])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert "defect" not in out + err
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """One file of each kind."""
    folder = tmp_path_factory.mktemp("files")
    story = Conversation.of(3, forgotten=True)
    records = story.records(with_text=True)
    bundle, one, log = records[0], records[2], story.log()
    assert isinstance(bundle, BundleRecord)
    assert isinstance(one, ReceiptRecord)
    parts = (one.receipt, one.proof, one.cose_receipt, bundle.bundle, bundle.proof)
    told = {"gateway": "g", "bundle": b64.encode(bundle.bundle), "proof": bundle.proof}
    evidence = decode_bundle(bundle.bundle)
    contents = {
        "receipt": encode_disclosure(Disclosure(*parts)),
        "with-text": encode_disclosure(Disclosure(*parts, said=one.said)),
        "archive": story.archive(with_text=True),
        "audit": write(Header(Kind.AUDIT, LATER, NOW - 9, LATER), [bundle, *log.records(1, 4)]),
        "bundle": bundle.bundle,
        "attestation.json": json.dumps({"enclaves": [told]}).encode(),
        "evidence.json": json.dumps({**told, "next": None}).encode(),
        "checkpoint": log.note.format().encode(),
        "cpu": evidence.cpu,
        "gpu": evidence.gpu,
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in contents}


KINDS = {
    "receipt": "receipt",
    "with-text": "receipt",
    "archive": "archive",
    "audit": "archive",
    "bundle": "bundle",
    "attestation.json": "bundle",
    "evidence.json": "bundle",
    "checkpoint": "checkpoint",
    "cpu": "evidence",
    "gpu": "evidence",
}
# Bundles are judged as of the time given; one without a proof does not hold.
AT = {"bundle": NOW + 9, "attestation.json": NOW + 9, "evidence.json": NOW + 9}
HOLDS = {name: name != "bundle" for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_known_by_its_content(files: Files, command: Command, name: str) -> None:
    """Whatever its name: one JSON document, with the outcome, steps and the policy."""
    code, out, _ = command(files[name], "--json", at=AT.get(name, LATER))
    told = json.loads(out)
    assert told["type"] == KINDS[name]
    assert (code, told["holds"]) == ((0, True) if HOLDS[name] else (1, False))
    assert told["steps"]
    assert told["policy"].endswith("policy.toml")


@pytest.mark.parametrize("name", KINDS)
def test_text_fits_a_terminal_of_eighty(files: Files, command: Command, name: str) -> None:
    """With the outcome first, numbered steps, what is not proven, and no colour in a pipe."""
    _, out, _ = command(files[name], at=AT.get(name, LATER))
    lines = out.splitlines()
    assert ("HOLDS" if HOLDS[name] else "DOES NOT HOLD") in lines[0]
    # The headline has a digest that nobody wants cut.
    assert max(len(line) for line in lines[1:]) <= 80
    assert "\x1b" not in out
    assert re.search(r"^ ?\d+\. ", out, re.MULTILINE)
    assert "No verdict says that the answer is true" in out.replace("\n  ", " ")
    if name != "checkpoint":
        assert "SIMULATED" in lines[1]


class _Tags(HTMLParser):
    """Collects what an HTML page has, as a browser would find it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _page(html: str) -> tuple[list[tuple[str, dict[str, str | None]]], str]:
    parser = _Tags()
    parser.feed(html)
    parser.close()
    return parser.tags, "".join(parser.text)


@pytest.mark.parametrize("name", KINDS)
def test_the_page_runs_and_loads_nothing(
    files: Files, command: Command, tmp_path: Path, name: str
) -> None:
    """One file, without script, link, image or attribute that could become one."""
    page = tmp_path / "report.html"
    command(files[name], "--html", page, at=AT.get(name, LATER))
    html = page.read_text("utf-8")
    tags, text = _page(html)
    assert not {tag for tag, _ in tags} & {"script", "img", "link", "iframe", "a", "form", "base"}
    names = {key for _, attributes in tags for key in attributes}
    assert names <= {"lang", "charset", "http-equiv", "content", "name", "class", "dir"}
    assert "url(" not in html
    assert "@import" not in html
    (rule,) = [a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert rule is not None
    assert rule.startswith("default-src 'none'; style-src 'sha256-")
    assert "What is not proven" in text
    assert ("SIMULATED attestation" in text) == (name != "checkpoint")
    assert page.stat().st_mode & 0o077 == 0


def _hostile(folder: Path) -> Path:
    """A disclosure whose words, and model, would take over a page or a terminal."""
    made = make_bundle(claims(model=HOSTILE), platform(), NOW)
    said = Said(HOSTILE.encode() + b"\xff", b"q" * 32, HOSTILE, b"a" * 32)
    stated = receipt(
        made.digest,
        request=commitment(said.request_salt, "request", said.request),
        response=commitment(said.response_salt, "response", said.response.encode()),
    )
    signed = sign_receipt(stated, RECEIPT_KEY)
    log = Log([bundle_entry(made.encode()), receipt_entry(signed)])
    file = folder / "hostile"
    file.write_bytes(
        encode_disclosure(
            Disclosure(
                signed,
                log.proof(receipt_entry(signed)),
                b"",
                made.encode(),
                log.proof(bundle_entry(made.encode())),
                said=said,
            )
        )
    )
    return file


def test_words_do_not_become_markup(command: Command, tmp_path: Path) -> None:
    """They are read as they were said, and no tag of theirs is one."""
    page = tmp_path / "report.html"
    code, _, _ = command(_hostile(tmp_path), "--html", page)
    assert code == 0
    html = page.read_text("utf-8")
    tags, text = _page(html)
    assert not {tag for tag, _ in tags} & {"script", "img", "b"}
    assert "<script>alert(1)</script>" in text
    assert "&lt;b&gt;" in text, "what was escaped already is shown as it was said"
    assert not set(html) & {"\x00", "\x1b", "\x07", "\x9b"}


def test_words_do_not_command_a_terminal(command: Command, tmp_path: Path) -> None:
    """Neither a reply nor a model's name."""
    _, out, _ = command(_hostile(tmp_path))
    assert not set(out) & {"\x00", "\x1b", "\x07", "\x9b"}
    assert "<script>alert(1)</script>" in out.replace("\n", "").replace(" ", "")


def test_words_are_shown_where_they_are_disclosed(files: Files, command: Command) -> None:
    """In text and JSON of a receipt; an archive's JSON has none."""
    assert "answer 1" in command(files["with-text"])[1]
    assert "answer 1" not in command(files["receipt"])[1]
    told = json.loads(command(files["with-text"], "--json")[1])
    assert told["said"] == {"request": "question 1 <b>", "response": "answer 1"}
    assert "answer 1" in command(files["archive"])[1]
    assert "answer 1" not in command(files["archive"], "--json")[1]


def test_words_that_were_changed_are_not_shown(
    files: Files, command: Command, tmp_path: Path
) -> None:
    """Step 17 fails, and neither text nor page has them."""
    told = decode_disclosure(files["with-text"].read_bytes())
    assert told.said is not None
    file, page = tmp_path / "changed", tmp_path / "page.html"
    file.write_bytes(encode_disclosure(replace(told, said=replace(told.said, response="lies"))))
    code, out, _ = command(file, "--html", page)
    assert code == 1
    assert re.search(r"^17\. What was said .* FAILS$", out, re.MULTILINE)
    assert "lies" not in out + page.read_text()
    told_json = json.loads(command(file, "--json")[1])
    assert "said" not in told_json


def test_evidence_is_held_against_values_that_are_given(files: Files, command: Command) -> None:
    """The right nonce and report data bind it, wrong ones do not, and malformed ones are usage."""
    bound = decode_bundle(files["bundle"].read_bytes())
    nonce, data = gpu_nonce(claims()).hex(), report_data(claims(), bound.gpu).hex()
    assert command(files["gpu"], "--nonce", nonce)[0] == 0
    assert command(files["gpu"], "--nonce", "00" * 32)[0] == 1
    assert command(files["cpu"], "--report-data", data)[0] == 0
    assert command(files["cpu"], "--report-data", "00" * 64)[0] == 1
    for option, value in (("--nonce", "00" * 31), ("--report-data", "xx" * 64)):
        assert command(files["gpu"], option, value)[0] == 2


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_never_a_zero(files: Files, command: Command, tmp_path: Path, name: str) -> None:
    """Flipped bits and cuts over each kind of file, signed parts or not: exit 1 or 2.

    Of the JSON and of text only what is signed or encoded counts: white space and names that
    nobody reads may differ.
    """
    data = files[name].read_bytes()
    at = AT.get(name, LATER)
    file = tmp_path / "damaged"
    rng = random.Random(11)
    for end in (0, 1, 5, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:end])
        assert command(file, at=at)[0] in (1, 2), end
    if name.endswith(".json"):
        return
    for place in rng.sample(range(len(data) * 8), 25):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        file.write_bytes(flipped)
        assert command(file, at=at)[0] in (1, 2), place


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 100,
        b"{",
        b"{}",
        b"[]",
        b"[" * 100_000,
        b'{"enclaves": []}',
        b'{"enclaves": [1]}',
        b'{"enclaves": [{"bundle": 1, "proof": ""}]}',
        b'{"enclaves": [{"bundle": "!", "proof": ""}]}',
        b'{"bundle": "AAAA", "proof": 5}',
        b'{"bundle": "AAAA", "proof": "x"}',
        b'[{"arch": "HOPPER", "certificate": "", "evidence": "", "nonce": ""}]',
        b"\x04\x00\x02\x00\x81\x00\x00\x00" + bytes(100),
        b"\x05\x00\x02\x00\x81\x00\x00\x00" + bytes(6000),
        b"\x02\x00\x00\x00" + bytes(1180),
        b"\xd2\x84" + bytes(50),
        b"c2sp.org/tlog-proof@v1\nindex 0\n\nx\n1\nAAAA\n\n\xe2\x80\x94 x AAAAAAA=\n",
        "log\n0\nAAAA\n\n\u2014 log AAAAAAA=\n".encode(),
        b"\x83\x78\x18sottovoce-disclosure-v2",
        b"\x58\x20sottovoce-archive-v1" + bytes(100),
        b"\x83\x70sottovoce-tdx-v1" + bytes(40),
        b"\x83\x70sottovoce-snp-v1" + bytes(40),
        b"\x85\x73sottovoce-nvidia-v1" + bytes(40),
        b"a poem\n\n\xe2\x80\x94 of nobody\n",
        b"\xff\xfe\xfd" * 1000,
    ],
)
def test_what_is_nothing_of_ours_is_unreadable(
    command: Command, tmp_path: Path, content: bytes
) -> None:
    """Exit 2 and one line, for each beginning that looks like something."""
    file = tmp_path / "something"
    file.write_bytes(content)
    code, out, err = command(file)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert json.loads(command(file, "--json")[1])["error"]["code"] == "unreadable"


def test_what_cannot_be_opened_or_written_is_one_line(
    files: Files, command: Command, tmp_path: Path
) -> None:
    """No file, a folder, a page in no folder, collateral that is none."""
    for arguments in (
        (tmp_path / "missing",),
        (tmp_path,),
        (files["receipt"], "--html", tmp_path / "no" / "page.html"),
        (files["receipt"], "--html", files["receipt"]),
        (tmp_path / "missing", "--html", files["receipt"]),
        (files["receipt"], "--collateral", tmp_path / "missing"),
        (files["receipt"], "--collateral", files["receipt"]),
    ):
        code, _, err = command(*arguments)
        assert code == 2, arguments
        assert len(err.splitlines()) == 1


def test_a_name_does_not_command_a_terminal(command: Command, tmp_path: Path) -> None:
    """What is said of a file that does not read may repeat names that somebody else chose."""
    file = tmp_path / "\x1b]52;c;aGk=\x07\x9b2J\nsotto: it holds"
    file.write_bytes(b"nothing")
    code, _, err = command(file)
    assert code == 2
    assert not set(err) & {"\x1b", "\x07", "\x9b"}
    assert len(err.splitlines()) == 1


def test_an_archive_from_a_pipe_is_refused_in_words(
    files: Files, command: Command, tmp_path: Path
) -> None:
    """It is read by place; anything shorter may come from a pipe."""
    for name, expected in (("archive", 2), ("receipt", 0)):
        pipe = tmp_path / name
        os.mkfifo(pipe)
        data = files[name].read_bytes()
        writer = threading.Thread(target=lambda at=pipe, told=data: at.write_bytes(told))
        writer.start()
        code, _, err = command(pipe)
        writer.join()
        assert code == expected
        assert ("Save it" in err) == bool(expected)


def test_a_page_is_for_its_owner_alone(files: Files, command: Command, tmp_path: Path) -> None:
    """Also where somebody's open file has its name already, or a link to one."""
    others, page = tmp_path / "others", tmp_path / "page.html"
    others.write_text("as it was")
    others.chmod(0o644)
    page.symlink_to(others)
    for _ in range(2):
        assert command(files["with-text"], "--html", page)[0] == 0
        assert stat.S_IMODE(page.lstat().st_mode) == 0o600
        page.chmod(0o644)
    assert others.read_text() == "as it was"
    assert not list(tmp_path.glob(".sotto-*"))


def test_a_gap_is_said_in_the_headline(command: Command, tmp_path: Path) -> None:
    """What is there holds, and yet the outcome is a 1."""
    records = Conversation.of(5).records()
    del records[3]
    file = tmp_path / "gap"
    file.write_bytes(write(Header(Kind.CONVERSATION, LATER, 0, LATER), records))
    code, out, _ = command(file)
    assert code == 1
    assert out.startswith("Conversation archive: IS NOT COMPLETE; what is there holds")
    assert "gap: the receipt that turn 3 names is not here" in out
    told = json.loads(command(file, "--json")[1])
    assert (told["holds"], told["complete"], told["counts"]["holding"]) == (False, False, 4)


def test_a_step_does_not_claim_hardware_that_is_not_there(files: Files) -> None:
    """Of simulated evidence the meaning of such steps is what it would be."""
    found = verify_file(files["receipt"], Terms(policy(), LATER))
    page: Page = make_page(found, "a policy")
    leads: dict[int, Any] = {line.number: line.lead for line in page.steps}
    assert leads[3] == leads[7] == leads[13] == "With hardware it would mean"
    assert leads[16] == leads[18] == "Means"
    assert leads[21] != "Means"


def test_colour_changes_no_word(files: Files) -> None:
    """What a terminal shows is what a pipe gets."""
    page = make_page(verify_file(files["archive"], Terms(policy(), LATER)), "a policy")
    coloured = render(page, 80, colour=True)
    assert any("\x1b[" in line for line in coloured)
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in coloured] == render(page, 80)


def test_real_evidence_is_known(command: Command, tmp_path: Path) -> None:
    """A TDX quote, a SEV-SNP report and NVIDIA's JSON: read, judged, and refused by this policy."""
    folder = tmp_path / "collateral"
    (folder / "snp").mkdir(parents=True)
    (folder / "tdx.json").write_bytes(attestation("tdx/tdx_quote_collateral.json"))
    (folder / "snp" / "vcek.der").write_bytes(attestation("snp/vcek.testcer"))
    (folder / "snp" / "chain.pem").write_bytes(attestation("snp/ask_ark_milan.pem"))
    for name, at, kind in (
        ("tdx/tdx_quote", 1_751_328_000, "tdx"),
        ("snp/attestation.bin", 1_720_000_000, "snp"),
        ("nvidia/hopper_evidence.json", NOW, "sottovoce-nvidia-v1"),
    ):
        file = tmp_path / "evidence"
        file.write_bytes(attestation(name))
        code, out, err = command(file, "--collateral", folder, "--json", at=at)
        told = json.loads(out)
        assert (code, told["type"], told["kind"], err) == (1, "evidence", kind, "")
        held = {step["number"] for step in told["steps"] if step["status"] == "holds"}
        assert 3 in held or kind.startswith("sottovoce"), "its signatures hold"
    file.write_bytes(attestation("tdx/tdx_quote"))
    alone = tmp_path / "tdx.json"
    alone.write_bytes(attestation("tdx/tdx_quote_collateral.json"))
    told = json.loads(command(file, "--collateral", alone, "--json", at=1_751_328_000)[1])
    assert told["evidence"]["tcb"]["status"] == "UpToDate"


def test_a_report_without_certificates_says_which_are_missing(
    command: Command, tmp_path: Path
) -> None:
    """A SEV-SNP report alone cannot be judged."""
    file = tmp_path / "report"
    file.write_bytes(attestation("snp/attestation.bin"))
    code, _, err = command(file)
    assert code == 2
    assert "--collateral FOLDER" in err
