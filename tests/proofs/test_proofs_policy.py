"""Policy files: what a person may write, and what is explained to whoever errs."""

from pathlib import Path

import pytest
from proofs_support import LOG, MEASUREMENTS, ROOT

from proofs.ed25519 import raw_public
from proofs.errors import PolicyError
from proofs.policy import Policy


def load(folder: Path, text: str) -> Policy:
    file = folder / "policy.toml"
    file.write_text(text)
    return Policy.load(file)


def test_a_whole_file(tmp_path: Path) -> None:
    """Every key that the documentation shows is understood."""
    policy = load(
        tmp_path,
        f"""
        kinds = ["simulated"]
        allow_simulated = true
        allow_debug = false
        simulated_roots = ["{raw_public(ROOT).hex()}"]
        measurements = [{{ "vm.firmware" = "{"01" * 48}", "vm.image" = "{"02" * 48}" }}]
        min_tcb = 1
        refused_advisories = ["INTEL-SA-00837"]
        max_age_s = 3600
        log_keys = ["{LOG.verifier.format()}"]
        require_inclusion = true

        [custody]
        kind = "third-party"
        platforms = ["{"ab" * 32}"]
        """,
    )
    assert policy.accepts_kind("simulated")
    assert policy.accepts_root("simulated", raw_public(ROOT))
    assert not policy.accepts_root("simulated", b"x" * 32)
    assert policy.accepts_measurements("simulated", MEASUREMENTS)
    assert not policy.accepts_measurements("simulated", MEASUREMENTS[:1])
    assert policy.log_keys == (LOG.verifier,)
    assert policy.custody.platforms == (b"\xab" * 32,)


def test_an_empty_file_is_the_strict_policy(tmp_path: Path) -> None:
    """Whatever is not written is refused."""
    policy = load(tmp_path, "")
    assert policy == Policy.strict()
    assert not policy.accepts_kind("simulated")
    assert policy.require_inclusion
    assert not policy.log_keys


def test_any_software_only_by_the_word(tmp_path: Path) -> None:
    """`any` must be written; an empty list of sets allows no hardware to run anything."""
    assert load(tmp_path, 'measurements = "any"').accepts_measurements("tdx", MEASUREMENTS)
    assert not load(tmp_path, "").accepts_measurements("tdx", MEASUREMENTS)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("allow_simulatd = true", "unknown key 'allow_simulatd'"),
        ('[custody]\nkinds = "none"', "unknown key 'custody.kinds'"),
        ("allow_simulated = 1", "'allow_simulated'"),
        ('allow_simulated = "true"', "'allow_simulated'"),
        ('kinds = ["sgx"]', "sgx"),
        ("max_age_s = 0", "'max_age_s'"),
        ("min_tcb = -1", "'min_tcb'"),
        ('simulated_roots = ["abcd"]', "simulated_roots.0"),
        (f'simulated_roots = ["{"AB" * 32}"]', "lower-case hex"),
        (f'simulated_roots = ["{"zz" * 32}"]', "simulated_roots.0"),
        ('measurements = "all"', "measurements"),
        ('measurements = [{ image = "" }]', "measurements"),
        ('log_keys = ["log.example+00000000+AAAA"]', "log_keys.0"),
        ('[custody]\nkind = "third-party"', "custody"),
        (f'[custody]\nplatforms = ["{"ab" * 32}"]', "custody"),
        ("allow_simulated = ", "not TOML"),
        ("x" * (1024 * 1024 + 1), "longer than"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, text: str, told: str) -> None:
    """The error names file and key, so that the reader knows where to look."""
    with pytest.raises(PolicyError) as refused:
        load(tmp_path, text)
    assert told in str(refused.value)
    assert "policy.toml" in str(refused.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are no text are policy errors like others."""
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for name in ("absent.toml", ".", "binary.toml"):
        with pytest.raises(PolicyError):
            Policy.load(tmp_path / name)


def test_values_are_not_repeated(tmp_path: Path) -> None:
    """A secret that strayed into the file does not reach a log through the error."""
    with pytest.raises(PolicyError) as refused:
        load(tmp_path, 'password = "hunter2"\nmax_age_s = "hunter2"')
    assert "hunter2" not in str(refused.value)
