"""Release manifests: one spelling, a signature, and sets that belong to one release only."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from proofs_support import LOG, MEASUREMENTS, NOW, claims, platform, policy, private_key, story

from proofs.bundle import bundle_entry
from proofs.errors import PolicyError, ProofError, RefusedError, UnreadableError
from proofs.note import Signer
from proofs.policy import Policy
from proofs.receipt import receipt_entry
from proofs.release import (
    MeasurementSet,
    Release,
    open_release,
    parse_release,
    parse_set,
    release_entry,
    sign_release,
)
from proofs.verify import judge_bundle

MAKER = Signer("example.org/releases", private_key(50))
OTHER_SET = (("vm.firmware", b"\x01" * 48), ("vm.image", b"\x03" * 48))


def release(digest: bytes = b"r" * 32, version: str = "1.0", *sets: MeasurementSet) -> Release:
    """A release; without sets, with that of the test's platform."""
    return Release(digest, version, sets or (MeasurementSet("simulated", MEASUREMENTS),))


def test_a_manifest_reads_as_it_was_signed() -> None:
    """What its maker signed comes back, in the order and the spelling that are documented."""
    made = release(
        b"r" * 32,
        "1.4.0-rc.1+build",
        MeasurementSet("simulated", MEASUREMENTS),
        MeasurementSet("tdx", (("mrtd", b"\x01" * 48), ("rtmr0", b"\x02" * 48))),
    )
    data = sign_release(made, MAKER).encode()
    assert open_release(data, [MAKER.verifier]) == made
    assert data.decode().split("\n")[:3] == [
        "sottovoce release v1",
        f"release {'72' * 32}",
        "version 1.4.0-rc.1+build",
    ]
    assert made.has("tdx", made.sets[1].measurements)
    assert not made.has("snp", made.sets[1].measurements)


def test_only_the_maker_may_sign() -> None:
    """Another's signature, or the maker's on another text, is refused."""
    data = sign_release(release(), MAKER)
    for keys in ([], [LOG.verifier], [Signer(MAKER.name, private_key(51)).verifier]):
        with pytest.raises(RefusedError):
            open_release(data.encode(), keys)
    forged = data.replace("version 1.0", "version 1.1")
    with pytest.raises(RefusedError):
        open_release(forged.encode(), [MAKER.verifier])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sottovoce release v1\n",
        "sottovoce release v2\nrelease R\nversion 1\nmeasurement tdx a=00\n",
        "sottovoce release v1\nrelease R\nversion 1\n",
        "sottovoce release v1\nversion 1\nrelease R\nmeasurement tdx a=00\n",
        "sottovoce release v1\nrelease R\nversion 1\nmeasurement tdx a=00",
        "sottovoce release v1\nrelease R\nversion 1\nmeasurement tdx a=00\nmore\n",
        "sottovoce release v1\nrelease 00\nversion 1\nmeasurement tdx a=00\n",
        "sottovoce release v1\nrelease R \nversion 1\nmeasurement tdx a=00\n",
        "sottovoce release v1\nrelease R\nversion 1 2\nmeasurement tdx a=00\n",
        "sottovoce release v1\nrelease R\nversion \nmeasurement tdx a=00\n",
        "sottovoce release v1\nrelease R\nversion 1\nmeasurement tdx\n",
        "sottovoce release v1\nrelease R\nversion 1\nmeasurement tdx a=\n",
        "sottovoce release v1\nrelease R\nversion 1\nmeasurement tdx a\n",
        "sottovoce release v1\nrelease R\nversion 1\nmeasurement tdx a=0\n",
        "sottovoce release v1\nrelease R\nversion 1\nmeasurement tdx a=0A\n",
        "sottovoce release v1\nrelease R\nversion 1\nmeasurement tdx a=00=00\n",
        "sottovoce release v1\nrelease R\nversion 1\nmeasurement tdx  a=00\n",
        "sottovoce release v1\nrelease R\nversion 1\nmeasurement tdx b=00 a=00\n",
        "sottovoce release v1\nrelease R\nversion 1\nmeasurement tdx a=00 a=00\n",
        "sottovoce release v1\nrelease R\nversion 1\nmeasurement TDX a=00\n",
        "sottovoce release v1\nrelease R\nversion 1\nmeasurement tdx a=00\nmeasurement snp a=00\n",
        "sottovoce release v1\nrelease R\nversion 1\nmeasurement tdx a=00\nmeasurement tdx a=00\n",
        "sottovoce release v1\nrelease R\nversion 1\nmeasurement tdx a=" + "00" * 65 + "\n",
        "sottovoce release v1\nrelease R\nversion 1\n" + "measurement tdx a=00\n" * 300,
    ],
)
def test_every_other_spelling_is_unreadable(text: str) -> None:
    """Whatever would not be written so is not read, signed or not."""
    with pytest.raises(UnreadableError):
        parse_release(text.replace("R", "ab" * 32))


def test_values_that_no_manifest_carries() -> None:
    """What could not be read back cannot be made."""
    for make in (
        lambda: release(b"short"),
        lambda: release(version="two words"),
        lambda: Release(b"r" * 32, "1", ()),
        lambda: release(b"r" * 32, "1", MeasurementSet("tdx", ())),
        lambda: release(b"r" * 32, "1", MeasurementSet("tdx", (("a b", b"x"),))),
        lambda: parse_set("tdx"),
    ):
        with pytest.raises(UnreadableError):
            make()


def test_cut_or_changed_anywhere() -> None:
    """No prefix reads as a manifest, and no byte changed holds."""
    data = bytearray(sign_release(release(), MAKER).encode())
    for end in range(len(data)):
        with pytest.raises(UnreadableError):
            open_release(bytes(data[:end]), [MAKER.verifier])
    for place in range(len(data)):
        data[place] ^= 1 << place % 8
        with pytest.raises(ProofError):
            open_release(bytes(data), [MAKER.verifier])
        data[place] ^= 1 << place % 8
    with pytest.raises(UnreadableError):
        open_release(bytes(data) * 2000, [MAKER.verifier])


def _codes(accept: Policy, measurements: tuple[tuple[str, bytes], ...], digest: bytes) -> set[str]:
    told = story(
        claims(measurements=measurements, release=digest),
        platform(measurements=measurements),
    )
    report = judge_bundle(told.bundle, told.bundle_proof, accept, NOW)
    return {code for step in report.steps for code in step.codes}


def test_a_set_passes_with_its_own_release_only() -> None:
    """Software of one release cannot say that it is another, nor unsigned software any."""
    one = release(b"1" * 32, "1.0")
    two = release(b"2" * 32, "2.0", MeasurementSet("simulated", OTHER_SET))
    accept = policy(measurements=(), releases=(one, two))
    assert _codes(accept, MEASUREMENTS, b"1" * 32) == set()
    assert _codes(accept, OTHER_SET, b"2" * 32) == set()
    assert _codes(accept, MEASUREMENTS, b"2" * 32) == {"release_mixed"}
    assert _codes(accept, OTHER_SET, b"1" * 32) == {"release_mixed"}
    assert _codes(accept, MEASUREMENTS, b"3" * 32) == {"release_mixed"}
    unknown = (("vm.image", b"\x07"),)
    assert _codes(accept, unknown, b"1" * 32) == {"measurements_refused"}
    of_another_kind = release(b"1" * 32, "1.0", MeasurementSet("tdx", MEASUREMENTS))
    accept = policy(measurements=(), releases=(of_another_kind,))
    assert _codes(accept, MEASUREMENTS, b"1" * 32) == {"measurements_refused"}
    # A set that the policy names itself may run under any release digest.
    assert _codes(policy(releases=(two,)), MEASUREMENTS, b"9" * 32) == set()


def test_policy_files_load_and_verify_manifests(tmp_path: Path) -> None:
    """Names are relative to the policy file; each manifest must be signed by a release key."""
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / "one.release").write_text(sign_release(release(), MAKER))
    file = tmp_path / "policy.toml"

    def load(keys: str, names: str) -> Policy:
        file.write_text(f"release_keys = {keys}\nreleases = {names}\n")
        return Policy.load(file)

    maker, stranger = (f'["{key.format()}"]' for key in (MAKER.verifier, LOG.verifier))
    loaded = load(maker, '["releases/one.release"]')
    assert loaded.releases == (release(),)
    (tmp_path / "broken.release").write_text("nothing")
    (tmp_path / "binary.release").write_bytes(b"\xff")
    for keys, names, told in (
        (stranger, '["releases/one.release"]', "No pinned key"),
        ("[]", '["releases/one.release"]', "No pinned key"),
        (maker, '["one.release"]', "cannot be read"),
        (maker, '["."]', "cannot be read"),
        (maker, '["broken.release"]', "signature lines"),
        (maker, '["binary.release"]', "no text"),
        (maker, "[1]", "releases"),
        (maker, '"one.release"', "releases"),
        ('["x"]', '["releases/one.release"]', "release_keys.0"),
    ):
        with pytest.raises(PolicyError, match=told):
            load(keys, names)


def test_log_entries_of_releases_meet_no_others() -> None:
    """The same bytes are another entry as a release than as a bundle or a receipt."""
    data = sign_release(release(), MAKER).encode()
    assert len(release_entry(data)) == 32
    assert len({release_entry(data), bundle_entry(data), receipt_entry(data)}) == 3
    assert release_entry(data) != hashlib.sha256(data).digest()
