"""Collecting evidence: the kernel's reports, NVIDIA's library, the operator's folder."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pynvml
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from proofs.bundle import make_bundle
from proofs.claims import Claims
from proofs.evidence import CPU_APPRAISERS, gpu_appraiser
from proofs.evidence.base import MAX_EVIDENCE, NO_COLLATERAL, gpu_nonce, report_data
from runtime.collateral import MAX_FILE, load_collateral
from runtime.config import EnclaveConfig
from runtime.enclave.tee.configfs import read_report
from runtime.enclave.tee.errors import TeeError
from runtime.enclave.tee.nvml import Gpus
from runtime.enclave.tee.platform import HardwarePlatform, make_platform
from runtime.errors import Exit, SetupError
from tests.runtime.enclave_world import pem
from tests.runtime.machines import GpuMachine, SnpMachine, TdxMachine
from tests.runtime.nvml_machine import DRIVER, FakeNvml
from tests.runtime.tsm_kernel import Kernel, certificate_table, running

DATA = bytes(range(64))
NO_GPU = Gpus(FakeNvml(None))


def snp_signer(
    machine: SnpMachine, at: int, *, table: tuple[str, ...] = ("vcek", "ask", "ark")
) -> Any:
    """A platform whose host hands out those certificates."""
    entries = {
        machine.key: machine.certificate(),
        "vcek": machine.certificate(),
        "ask": machine.issuer.der,
        "ark": machine.ark.der,
        "crl": machine.crl(at),
    }
    aux = certificate_table({name: entries[name] for name in table}) if table else b""
    return lambda data: (machine.report(data), aux)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closed after the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def snp(stack: ExitStack, tmp_path: Path) -> Kernel:
    """A SEV-SNP guest's kernel."""
    signer = snp_signer(SnpMachine.create(), int(time.time()))
    return stack.enter_context(running(Kernel(tmp_path / "tsm/report", "sev_guest", signer)))


@pytest.fixture
def tdx(stack: ExitStack, tmp_path: Path) -> Kernel:
    """A TDX guest's kernel."""
    machine = TdxMachine.create()
    kernel = Kernel(tmp_path / "tsm/report", "tdx_guest", lambda data: (machine.quote(data), b""))
    return stack.enter_context(running(kernel))


def claims(platform: HardwarePlatform) -> Claims:
    """Of some enclave on that machine."""
    now = int(time.time())
    return Claims(
        key_configs=(b"a key configuration",),
        receipt_key=Ed25519PrivateKey.generate().public_key().public_bytes_raw(),
        measurements=platform.measurements,
        release=bytes(32),
        model_manifest=bytes(32),
        engine="scripted",
        model="script",
        not_before=now,
        not_after=now + 60,
        epoch=0,
    )


def tdx_folder(folder: Path, at: int) -> Path:
    """An operator's folder with Intel's collateral."""
    folder.mkdir(exist_ok=True)
    (folder / "tdx.json").write_text(TdxMachine.create().collateral(at))
    return folder


# The kernel's reports.


def test_a_report_is_asked_for_and_the_request_removed(snp: Kernel) -> None:
    """One request for each report, gone when it is answered."""
    first, second = read_report(DATA, root=snp.root), read_report(DATA[::-1], root=snp.root)
    assert (first.provider, len(first.report)) == ("sev_guest", 1184)
    assert first.report[0x50:0x90] == DATA
    assert second.report[0x50:0x90] == DATA[::-1]
    assert len(set(snp.made)) == 2
    assert list(snp.root.iterdir()) == []


def test_a_kernel_without_certificates_of_the_host_gives_none(tdx: Kernel) -> None:
    """TDX has no attribute `auxblob`."""
    report = read_report(DATA, root=tdx.root)
    assert (report.provider, report.auxiliary) == ("tdx_guest", b"")


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT])
def test_a_busy_platform_is_asked_again(snp: Kernel, number: int) -> None:
    """A quote of somebody else may be in the making."""
    snp.refuses["outblob"] = [number, number]
    assert read_report(DATA, root=snp.root).report[0x50:0x90] == DATA
    assert len(snp.made) == 3
    assert list(snp.root.iterdir()) == []


@pytest.mark.parametrize(
    ("where", "number", "code", "says"),
    [
        ("outblob", errno.EBUSY, "tee_busy", "qgsd"),
        ("outblob", errno.ETIMEDOUT, "tee_busy", "qgsd"),
        ("outblob", errno.EIO, "tee_failed", "dmesg"),
        ("outblob", errno.EFBIG, "tee_failed", "update both"),
        ("auxblob", errno.EIO, "tee_failed", "auxblob"),
        ("generation", errno.EIO, "tee_failed", "generation"),
        ("mkdir", errno.EACCES, "tee_permission", "run as root"),
        ("mkdir", errno.EROFS, "tee_permission", "writable"),
        ("mkdir", errno.ENXIO, "no_tee", "modprobe"),
        ("inblob", errno.EINVAL, "tee_failed", "inblob"),
    ],
)
def test_each_refusal_says_what_to_do(
    snp: Kernel, where: str, number: int, code: str, says: str
) -> None:
    """One line, exit 2, and nothing left behind in the kernel."""
    snp.refuses[where] = [number] * 9
    with pytest.raises(TeeError, match=says) as caught:
        read_report(DATA, root=snp.root, timeout_s=0)
    assert (caught.value.code, caught.value.exit_code) == (code, Exit.USAGE)
    assert "\n" not in str(caught.value)
    assert list(snp.root.iterdir()) == []


def test_an_answer_that_another_program_wrote_into_is_not_taken(snp: Kernel) -> None:
    """The generation betrays it; a new request is made, and after three of them it is said."""
    snp.intruders = 2
    assert read_report(DATA, root=snp.root).report[0x50:0x90] == DATA
    assert len(snp.made) == 3
    snp.intruders = 3
    with pytest.raises(TeeError, match="another program"):
        read_report(DATA, root=snp.root)


def test_a_paravisor_is_named(snp: Kernel) -> None:
    """What runs at a higher privilege could read this VM, and no evidence speaks of it."""
    snp.floor = 2
    with pytest.raises(TeeError, match="privilege level 2"):
        read_report(DATA, root=snp.root)
    snp.floor = 0
    assert read_report(DATA, root=snp.root).report


def test_a_report_without_end_is_not_read(snp: Kernel) -> None:
    """No answer takes more memory than any format needs."""
    snp.sign = lambda data: (bytes(64 * 1024 + 1), b"")
    with pytest.raises(TeeError, match="larger"):
        read_report(DATA, root=snp.root)


def test_a_machine_without_a_tee_is_told_which_part_is_missing(tmp_path: Path) -> None:
    """No configfs at all, and configfs without this part."""
    with pytest.raises(TeeError, match="is not mounted") as caught:
        read_report(DATA, root=tmp_path / "tsm/report")
    assert caught.value.code == "no_tee"
    (tmp_path / "usb_gadget").mkdir()
    with pytest.raises(TeeError, match=r"older than 6\.7"):
        read_report(DATA, root=tmp_path / "tsm/report")


def test_a_kernel_without_a_platform_is_told(snp: Kernel) -> None:
    """configfs-tsm is there, and nobody makes reports."""
    snp.provider = ""
    with pytest.raises(TeeError, match="no TDX or SEV-SNP guest"):
        read_report(DATA, root=snp.root)


def test_a_platform_of_another_kind_is_named(snp: Kernel) -> None:
    """Arm's realms and others speak the same interface."""
    snp.provider = "arm_cca_guest"
    with pytest.raises(TeeError, match="arm_cca_guest"):
        HardwarePlatform.boot(None, root=snp.root, gpus=NO_GPU)


# The platform.


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
@pytest.mark.parametrize("key", ["vcek", "vlek"])
def test_what_is_collected_on_amd_verifies(
    stack: ExitStack, tmp_path: Path, product: str, key: str
) -> None:
    """Certificates come from the host's table alone; report data is of the claims."""
    machine = SnpMachine.create(product, key)
    signer = snp_signer(machine, int(time.time()), table=("crl", "ark", key, "ask"))
    kernel = stack.enter_context(running(Kernel(tmp_path / "report", "sev_guest", signer)))
    platform = HardwarePlatform.boot(None, root=kernel.root, gpus=NO_GPU)
    assert platform.kind == "snp"
    assert platform.measurements == machine.measurements
    assert platform.debug is False
    now, said = int(time.time()), claims(platform)
    bundle = make_bundle(said, platform, now)
    appraisal = CPU_APPRAISERS[bundle.kind](bundle.cpu, now, NO_COLLATERAL)
    assert appraisal.problems == ()
    assert appraisal.root == machine.root
    assert appraisal.report_data == report_data(said, b"")
    assert bundle.gpu == b""


@pytest.mark.parametrize("version", [4, 5])
def test_what_is_collected_on_intel_verifies(
    stack: ExitStack, tmp_path: Path, version: int
) -> None:
    """With the collateral of the operator's folder, read at each collection."""
    machine = TdxMachine.create(version)
    kernel = Kernel(tmp_path / "report", "tdx_guest", lambda data: (machine.quote(data), b""))
    stack.enter_context(running(kernel))
    now = int(time.time())
    folder = tdx_folder(tmp_path / "collateral", now)
    platform = HardwarePlatform.boot(folder, root=kernel.root, gpus=NO_GPU)
    assert platform.measurements == machine.measurements
    bundle = make_bundle(claims(platform), platform, now)
    assert CPU_APPRAISERS["tdx"](bundle.cpu, now, NO_COLLATERAL).problems == ()
    (folder / "tdx.json").write_text(machine.collateral(now, status="OutOfDate"))
    bundle = make_bundle(claims(platform), platform, now)
    assert CPU_APPRAISERS["tdx"](bundle.cpu, now, NO_COLLATERAL).tcb.status == "OutOfDate"


def test_certificates_of_amd_come_from_the_folder_where_the_host_has_none(
    stack: ExitStack, tmp_path: Path
) -> None:
    """In PEM or DER, beside those of other machines and of firmware before."""
    machine, other = SnpMachine.create(), SnpMachine.create(chip=2)
    now = int(time.time())
    kernel = Kernel(tmp_path / "report", "sev_guest", snp_signer(machine, now, table=()))
    stack.enter_context(running(kernel))
    folder = tmp_path / "collateral/snp"
    folder.mkdir(parents=True)
    with pytest.raises(TeeError, match="sotto attest collateral") as caught:
        HardwarePlatform.boot(folder.parent, root=kernel.root, gpus=NO_GPU)
    assert caught.value.code == "collateral"
    authorities = (machine.issuer.certificate, machine.ark.certificate)
    (folder / "chain.pem").write_bytes(
        b"".join(one.public_bytes(Encoding.PEM) for one in authorities)
    )
    (folder / "1.der").write_bytes(other.certificate())
    (folder / "2.der").write_bytes(machine.certificate({"microcode": 1}))
    (folder / "3.der").write_bytes(machine.certificate())
    (folder / "Milan.crl").write_bytes(machine.crl(now))
    platform = HardwarePlatform.boot(folder.parent, root=kernel.root, gpus=NO_GPU)
    cpu = make_bundle(claims(platform), platform, now).cpu
    appraisal = CPU_APPRAISERS["snp"](cpu, now, NO_COLLATERAL)
    assert appraisal.problems == ()
    assert dict(appraisal.facts)["revocation looked up"] == "yes"


@pytest.mark.parametrize("little_endian", [False, True])
def test_the_hosts_table_is_read_in_either_byte_order(
    stack: ExitStack, tmp_path: Path, little_endian: bool
) -> None:
    """Hosts disagree about how a GUID is written."""
    machine = SnpMachine.create()
    entries = {"vcek": machine.certificate(), "ask": machine.issuer.der, "ark": machine.ark.der}
    aux = certificate_table(entries, little_endian=little_endian)
    kernel = Kernel(tmp_path / "report", "sev_guest", lambda data: (machine.report(data), aux))
    stack.enter_context(running(kernel))
    assert HardwarePlatform.boot(None, root=kernel.root, gpus=NO_GPU).kind == "snp"


@pytest.mark.parametrize(
    ("cut", "says"),
    [(1, "not at hand"), (23, "not at hand"), (24, "damaged"), (100, "damaged"), (-1, "damaged")],
)
def test_a_table_that_leads_outside_of_itself_is_refused(
    stack: ExitStack, tmp_path: Path, cut: int, says: str
) -> None:
    """The host writes it, so it is not believed to be whole."""
    machine = SnpMachine.create()
    entries = {"vcek": machine.certificate(), "ask": machine.issuer.der, "ark": machine.ark.der}
    aux = certificate_table(entries)[:cut]
    kernel = Kernel(tmp_path / "report", "sev_guest", lambda data: (machine.report(data), aux))
    stack.enter_context(running(kernel))
    with pytest.raises(TeeError, match=says) as caught:
        HardwarePlatform.boot(None, root=kernel.root, gpus=NO_GPU)
    assert caught.value.code == "collateral"


def test_gpus_sign_the_nonce_of_the_keys_and_the_cpu_signs_their_evidence(
    tdx: Kernel, tmp_path: Path
) -> None:
    """Both halves are bound to the claims, with every GPU and the folder's reference values."""
    machine = GpuMachine.create(2)
    now = int(time.time())
    folder = tdx_folder(tmp_path / "collateral", now)
    for name, items in (
        ("rims/{}.swidtag", machine.rims()),
        ("ocsp/{}.der", machine.responses(now)),
    ):
        for number, item in enumerate(items):
            (folder / name.format(number)).parent.mkdir(exist_ok=True)
            (folder / name.format(number)).write_bytes(item)
    nvml = FakeNvml(machine)
    platform = HardwarePlatform.boot(folder, root=tdx.root, gpus=Gpus(nvml))
    said = claims(platform)
    bundle = make_bundle(said, platform, now)
    appraisal = gpu_appraiser(bundle.gpu)(bundle.gpu, now, NO_COLLATERAL)
    assert appraisal.problems == ()
    assert appraisal.nonce == gpu_nonce(said)
    assert [(one.architecture, one.driver, one.measured) for one in appraisal.devices] == [
        ("HOPPER", DRIVER, True)
    ] * 2
    assert appraisal.revocation_checked
    assert tdx.signed[-1] == report_data(said, bundle.gpu)
    assert nvml.open == 0


def test_reference_values_that_do_not_fit_are_left_to_the_verifier(
    tdx: Kernel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Evidence has a limit; a verifier may bring newer ones anyway, and the log says so."""
    machine = GpuMachine.create()
    rim = machine.rims()[0]
    (tmp_path / "rims").mkdir()
    copies = MAX_EVIDENCE // len(rim) + 2
    for number in range(min(copies, 60)):
        padding = b"<!--" + b"x" * max(0, MAX_EVIDENCE // 40 - len(rim)) + b"-->"
        (tmp_path / f"rims/{number}.swidtag").write_bytes(rim + padding)
    platform = HardwarePlatform.boot(tmp_path, root=tdx.root, gpus=Gpus(FakeNvml(machine)))
    bundle = make_bundle(claims(platform), platform, int(time.time()))
    assert len(bundle.gpu) <= MAX_EVIDENCE
    assert "no room" in caplog.text


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no_gpu", r"libnvidia-ml\.so\.1"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "no_gpu", "modprobe nvidia"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "gpu_failed", "run as root"),
        (pynvml.NVML_ERROR_NOT_SUPPORTED, "gpu_failed", "Hopper"),
        (pynvml.NVML_ERROR_UNKNOWN, "gpu_failed", "NVML error 999"),
    ],
)
def test_each_refusal_of_the_driver_says_what_to_do(number: int, code: str, says: str) -> None:
    """NVML's own errors stay inside."""
    gpus = Gpus(FakeNvml(None, fails={"nvmlInit": number}))
    for ask in (gpus.state, lambda: gpus.collect(bytes(32))):
        with pytest.raises(TeeError, match=says) as caught:
            ask()
        assert caught.value.code == code


def test_a_gpu_that_cannot_attest_stops_the_enclave(tdx: Kernel) -> None:
    """Evidence without it would hide that the model runs where the host can look."""
    nvml = FakeNvml(GpuMachine.create(), confidential=False)
    with pytest.raises(TeeError, match="open to the host") as caught:
        HardwarePlatform.boot(None, root=tdx.root, gpus=Gpus(nvml))
    assert caught.value.code == "gpu_not_confidential"
    failing = {"nvmlDeviceGetConfComputeGpuAttestationReport": pynvml.NVML_ERROR_UNKNOWN}
    nvml = FakeNvml(GpuMachine.create(), fails=failing)
    with pytest.raises(TeeError, match="NVML error"):
        HardwarePlatform.boot(None, root=tdx.root, gpus=Gpus(nvml))
    assert nvml.open == 0


def test_a_gpu_that_goes_away_later_is_not_left_out(tdx: Kernel) -> None:
    """The epoch before stays in force; evidence never loses a part in silence."""
    nvml = FakeNvml(GpuMachine.create())
    platform = HardwarePlatform.boot(None, root=tdx.root, gpus=Gpus(nvml))
    nvml.machine = None
    with pytest.raises(TeeError, match="no GPU"):
        platform.collect(claims(platform), int(time.time()))


def test_no_driver_on_this_machine_is_no_gpu(tdx: Kernel) -> None:
    """The real library is asked, and is not here."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        pass
    else:
        pytest.skip("this machine has NVIDIA's library")
    with pytest.raises(TeeError) as caught:
        Gpus().state()
    assert caught.value.code == "no_gpu"
    platform = HardwarePlatform.boot(None, root=tdx.root)
    assert platform.collect(claims(platform), int(time.time())).gpu == b""


def test_what_is_measured_after_the_boot_is_noticed(tdx: Kernel) -> None:
    """Claims name what was measured at boot; evidence of something else would be refused."""
    platform = HardwarePlatform.boot(None, root=tdx.root, gpus=NO_GPU)
    other = TdxMachine.create(mrtd=b"\x0e" * 48)
    tdx.sign = lambda data: (other.quote(data), b"")
    with pytest.raises(TeeError, match="restart the enclave"):
        platform.collect(claims(platform), int(time.time()))


def test_a_platform_that_signs_something_else_is_not_believed(tdx: Kernel) -> None:
    """An answer to another question is no evidence of ours."""
    platform = HardwarePlatform.boot(None, root=tdx.root, gpus=NO_GPU)
    machine = TdxMachine.create()
    tdx.sign = lambda data: (machine.quote(data[::-1]), b"")
    with pytest.raises(TeeError, match="something else"):
        platform.collect(claims(platform), int(time.time()))


def test_debug_is_read_from_the_evidence(stack: ExitStack, tmp_path: Path) -> None:
    """Not from the configuration, which the host could write."""
    machine = TdxMachine.create()
    kernel = Kernel(
        tmp_path / "report", "tdx_guest", lambda data: (machine.quote(data, debug=True), b"")
    )
    stack.enter_context(running(kernel))
    assert HardwarePlatform.boot(None, root=kernel.root, gpus=NO_GPU).debug is True


# The configuration.


def test_a_development_root_makes_a_simulation(tmp_path: Path) -> None:
    """The one word in the configuration that decides."""
    (tmp_path / "root.pem").write_bytes(pem(Ed25519PrivateKey.generate()))
    config = EnclaveConfig(redis_url="redis://x", simulated_root=tmp_path / "root.pem")
    assert make_platform(config).kind == "simulated"


def test_simulated_evidence_has_no_vendor(tmp_path: Path) -> None:
    """Both at once is a mistake of somebody."""
    config = EnclaveConfig(
        redis_url="redis://x", simulated_root=tmp_path / "root.pem", collateral=tmp_path
    )
    with pytest.raises(SetupError, match="exclude each other"):
        make_platform(config)


def test_without_a_root_the_hardware_is_asked_for() -> None:
    """On a machine without any: what is missing, and how to try it without."""
    if Path("/sys/kernel/config/tsm").exists():
        pytest.skip("this machine has configfs-tsm")
    with pytest.raises(SetupError, match="simulated_root") as caught:
        make_platform(EnclaveConfig(redis_url="redis://x"))
    assert caught.value.code == "no_tee"
    assert "\n" not in str(caught.value)


def test_an_enclave_that_shows_prompts_says_so_or_does_not_start(tdx: Kernel) -> None:
    """Evidence that says "not debug" of an enclave that shows prompts would be a lie."""
    config = EnclaveConfig(redis_url="redis://x")
    assert make_platform(config, root=tdx.root).kind == "tdx"
    with pytest.raises(SetupError, match="shows prompts"):
        make_platform(config.model_copy(update={"debug": True}), root=tdx.root)
    machine = TdxMachine.create()
    tdx.sign = lambda data: (machine.quote(data, debug=True), b"")
    platform = make_platform(config.model_copy(update={"debug": True}), root=tdx.root)
    assert platform.debug is True


# The operator's folder.


def test_a_folder_may_be_empty_or_absent(tmp_path: Path) -> None:
    """Every part is optional; a folder that is named and not there is a mistake."""
    assert load_collateral(None).collateral == NO_COLLATERAL
    assert load_collateral(tmp_path).collateral == NO_COLLATERAL
    with pytest.raises(SetupError, match="is not there"):
        load_collateral(tmp_path / "absent")


def test_what_cannot_be_collateral_is_named(tmp_path: Path) -> None:
    """Too large, too many, no certificate, no text."""
    (tmp_path / "snp").mkdir()
    (tmp_path / "snp/a.der").write_bytes(b"no certificate")
    with pytest.raises(SetupError, match="no certificate"):
        load_collateral(tmp_path)
    version = bytes.fromhex("a003020102")
    der = SnpMachine.create().ark.der.replace(version, version[:-1] + b"\x05", 1)
    (tmp_path / "snp/a.der").write_bytes(der)
    with pytest.raises(SetupError, match="no certificate"):
        load_collateral(tmp_path)
    (tmp_path / "snp/a.der").unlink()
    (tmp_path / "tdx.json").write_bytes(bytes(MAX_FILE + 1))
    with pytest.raises(SetupError, match="more than"):
        load_collateral(tmp_path)
    (tmp_path / "tdx.json").write_bytes(b"\xff")
    with pytest.raises(SetupError, match="no text"):
        load_collateral(tmp_path)
    (tmp_path / "tdx.json").unlink()
    for number in range(65):
        (tmp_path / f"snp/{number}.crl").write_bytes(b"x")
    with pytest.raises(SetupError, match="65 files"):
        load_collateral(tmp_path)


def test_certificates_are_read_as_they_are(tmp_path: Path) -> None:
    """PEM and DER give the same."""
    machine = SnpMachine.create()
    (tmp_path / "snp").mkdir()
    (tmp_path / "snp/a.der").write_bytes(machine.ark.der)
    certificate = x509.load_der_x509_certificate(machine.ark.der)
    (tmp_path / "snp/b.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    assert load_collateral(tmp_path).snp_certificates == (machine.ark.der, machine.ark.der)


def test_a_request_is_named_for_its_process(snp: Kernel) -> None:
    """An operator who finds one that was left knows whose it was."""
    read_report(DATA, root=snp.root)
    assert snp.made[0].startswith(f"sotto-{os.getpid()}-")
