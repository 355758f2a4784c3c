"""Policy files: what a person may write, and what is explained to whoever errs."""

import re
from pathlib import Path

import pytest
from proofs_support import LOG, MEASUREMENTS, ROOT, WITNESSES, repository

from proofs import policy as policy_module
from proofs import verify
from proofs.cosignature import Cosigner
from proofs.ed25519 import raw_public
from proofs.errors import PolicyError
from proofs.evidence import nvidia, snp, tdx
from proofs.explain import explain
from proofs.policy import Custody, GpuPolicy, Policy, SnpPolicy, TdxPolicy


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


WITNESS = WITNESSES[0].verifier.format()
LINES = ("Milan", "Genoa", "Turin")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[tdx]\nroot = "x"', "unknown key 'tdx.root'"),
        ('[tdx]\nstatuses = ["Revoked"]', "tdx.statuses.0"),
        ("[tdx]\nmin_tcb = { module = -1 }", "tdx.min_tcb.module"),
        ('[tdx]\nmin_tcb = { module = "6" }', "tdx.min_tcb.module"),
        ('[snp]\nproducts = ["Rome"]', "snp.products.0"),
        ("[gpu]\nrequired = 1", "gpu.required"),
        ("[gpu]\nmin_devices = 0", "gpu.min_devices"),
        ('[gpu]\nmin_driver = "latest"', "gpu.min_driver"),
        ('[gpu]\nroots = ["ab"]', "gpu.roots.0"),
        ("[gpu]\nconfidental = true", "unknown key 'gpu.confidental'"),
        ("min_witnesses = 1", "min_witnesses"),
        (f'witnesses = ["{WITNESS}"]\nmin_witnesses = 2', "min_witnesses"),
        (f'witnesses = ["{WITNESS}", "{WITNESS}"]', "named twice"),
        (f'witnesses = ["{LOG.verifier.format()}"]', "witnesses.0"),
        (f'log_keys = ["{WITNESS}"]', "log_keys.0"),
        (
            f'witnesses = ["{WITNESS}"]\nmin_witnesses = 1\nrequire_inclusion = false',
            "require_inclusion",
        ),
        ("require_cose = true\nrequire_inclusion = false", "require_inclusion"),
        ('revoked_releases = ["00"]', "revoked_releases.0"),
        ('models = "any"', "models"),
        ("grace_s = -1", "grace_s"),
        ('releases = ["absent.release"]', "absent.release cannot be read"),
        ("a = " + "[" * 100_000, "not TOML"),
    ],
)
def test_mistakes_in_the_sections_are_explained(tmp_path: Path, text: str, told: str) -> None:
    """Each section refuses what it does not know, and a policy that could not be met."""
    with pytest.raises(PolicyError) as refused:
        load(tmp_path, text)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_logs_key_is_no_witness(tmp_path: Path) -> None:
    """The log's own key, dressed as a witness, would let it vouch for itself."""
    dressed = Cosigner("witness.example/of-the-log", LOG.key).verifier.format()
    with pytest.raises(PolicyError, match="a log's own"):
        load(tmp_path, f'log_keys = ["{LOG.verifier.format()}"]\nwitnesses = ["{dressed}"]')


def test_milan_passes_only_where_it_is_named(tmp_path: Path) -> None:
    """Its keys leak to software alone, so nobody believes it without having said so."""
    policy = load(tmp_path, "")
    assert [line for line in LINES if policy.accepts_product("snp", line)] == ["Genoa", "Turin"]
    assert "Milan" not in str(explain(policy))
    assert load(tmp_path, '[snp]\nproducts = ["Milan"]').accepts_product("snp", "Milan")


def test_vendors_roots_are_the_default(tmp_path: Path) -> None:
    """Who names no roots gets the vendors', and each kind its own only."""
    policy = load(tmp_path, "")
    assert all(policy.accepts_root("tdx", root) for root in tdx.ROOTS)
    assert all(policy.accepts_root("snp", root) for root in snp.ROOTS)
    assert not any(policy.accepts_root("snp", root) for root in tdx.ROOTS)
    assert not any(policy.accepts_root("tpm", root) for root in tdx.ROOTS | snp.ROOTS)
    assert set(policy.gpu.roots) == nvidia.ROOTS
    assert set(policy.gpu.rim_roots) == nvidia.RIM_ROOTS
    pinned = load(tmp_path, f'[tdx]\nroots = ["{"ab" * 32}"]')
    assert not any(pinned.accepts_root("tdx", root) for root in tdx.ROOTS)


@pytest.mark.parametrize(
    ("version", "passes"),
    [
        ("580.159.03", True),
        ("580.159", False),
        ("580.159.02", False),
        ("580.160", True),
        ("1000.1", True),
        ("99.999.99", False),
        ("", False),
        ("580.159.03-beta", False),
        ("580.159.03.", False),
        ("9" * 5000, False),
    ],
)
def test_driver_floors_compare_numbers(version: str, passes: bool) -> None:
    """Versions compare part by part, as numbers; what is none passes no floor."""
    assert GpuPolicy(min_driver="580.159.03").accepts_driver(version) is passes
    assert GpuPolicy().accepts_driver(version)


def _example(name: str) -> Policy:
    return Policy.load(repository() / "docs" / "policies" / f"{name}.toml")


def test_examples_of_the_documentation_load() -> None:
    """The three examples are policies, each as strict as its name says."""
    strict, cloud, development = map(_example, ("strict", "cloud", "development"))
    assert strict.min_witnesses == 2
    assert strict.require_later_epoch
    assert strict.releases == cloud.releases != ()
    one_witness = cloud.model_copy(update={"min_witnesses": 1})
    assert any("One witness" in one for one in explain(one_witness).warnings)
    for safe in (strict, cloud):
        assert not explain(safe).warnings
        assert not safe.accepts_kind("simulated")
        assert safe.gpu.required
    assert any("DEVELOPMENT" in one for one in explain(development).warnings)


def test_every_key_is_documented() -> None:
    """The page about policies and the module's text name each key that a file may have."""
    page = (repository() / "docs" / "policy.md").read_text()
    for model in (Policy, TdxPolicy, SnpPolicy, GpuPolicy, Custody):
        for key in model.model_fields:
            assert f"{key}" in page, key
            assert key in (policy_module.__doc__ or ""), key


def test_every_code_is_documented() -> None:
    """A program that meets a code finds it on the page about policies."""
    page = (repository() / "docs" / "policy.md").read_text()
    sources = (
        repository() / "proofs" / f"{name}.py"
        for name in ("enclavesteps", "gpusteps", "logsteps", "receiptsteps", "verify")
    )
    text = "".join(source.read_text() for source in sources)
    codes = set(re.findall(r'^ +"([a-z]+(?:_[a-z]+)+)",$', text, re.MULTILINE))
    codes |= set(re.findall(r'Check\.[A-Z_]+, "([a-z]+(?:_[a-z]+)+)"', text))
    codes -= set(verify.__all__)
    assert len(codes) > 30
    for code in codes:
        assert f"`{code}`" in page, code


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("", "No log is pinned"),
        ("", "No software is named"),
        ("", "No witness is required"),
        ("kinds = []", "No kind of evidence passes"),
        ("allow_debug = true", "Debug mode"),
        ('measurements = "any"', "Measurements are not judged"),
        ("require_inclusion = false", "Inclusion is not required"),
        ("allow_simulated = true", "DEVELOPMENT"),
        ("allow_simulated = true", "No development root"),
        ("[gpu]\nrevocation = false", "Revocation of GPU certificates is off"),
        ("[gpu]\nrims = false", "held against signed values"),
        ("[gpu]\nconfidential = false", "confidential computing off"),
        ("[gpu]\nrequired = false", "No GPU is required"),
        ('[tdx]\nstatuses = ["UpToDate", "OutOfDate"]', "known flaws"),
        ("grace_s = 31536000", "365 days"),
        ('[snp]\nproducts = ["Genoa", "Milan"]', "Milan passes"),
        (f'[gpu]\nrim_roots = ["{"ab" * 32}"]', "not the vendor's are pinned for GPUs' reference"),
        (f'release_keys = ["{LOG.verifier.format()}"]', "no effect"),
    ],
)
def test_weak_policies_are_warned_of(tmp_path: Path, text: str, warning: str) -> None:
    """Whatever is off, for development, or makes everything fail, is said."""
    warnings = explain(load(tmp_path, text)).warnings
    assert any(warning in one for one in warnings)
    assert not any(warning in one for one in explain(_example("strict")).warnings)


def test_sentences_say_what_is_accepted(tmp_path: Path) -> None:
    """Floors, lists, releases and spans of time are in the sentences, in plain words."""
    told = "\n".join(explain(_example("strict")).sentences)
    for words in (
        "Intel TDX or AMD SEV-SNP",
        "Genoa or Turin",
        "Release 1.4.0",
        "only under its own release digest",
        "at least module 262",
        "2 hours old",
        "2 of these witnesses",
        "a third party vouches for",
        "580.159 or newer",
    ):
        assert words in told
    text = 'refused_advisories = ["A-1", "A-2"]\ngrace_s = 86400\nmax_age_s = 61'
    told = "\n".join(explain(load(tmp_path, text)).sentences)
    assert "A-1 or A-2" in told
    assert "1 day more" in told
    assert "61 s old" in told
    assert "No measured software may run" in told
    one = f'measurements = [{{ release = "{"00" * 32}" }}]'
    custody = f'[custody]\nkind = "operator-asserted"\nplatforms = ["{"00" * 32}"]'
    told = "\n".join(explain(load(tmp_path, f"{one}\n{custody}")).sentences)
    assert "measures as the one set in the policy" in told
    assert "must be the one that the operator vouches for" in told
