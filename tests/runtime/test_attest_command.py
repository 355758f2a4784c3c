"""`sotto attest` as an operator meets it, on a machine without hardware and on one that has it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from proofs.bundle import decode_bundle
from proofs.claims import decode_claims
from proofs.evidence import CPU_APPRAISERS, gpu_appraiser
from proofs.evidence.base import NO_COLLATERAL, gpu_nonce, report_data
from runtime.cli import main
from runtime.collateral import load_collateral
from runtime.enclave.tee.configfs import TSM_ROOT
from tests.runtime.machines import SnpMachine, TdxMachine
from tests.runtime.tsm_kernel import Kernel, certificate_table, running

Command = Callable[..., tuple[int, str, str]]
HERE = Path(__file__).parent


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(one) for one in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    """A SEV-SNP guest whose host hands out certificates."""
    machine = SnpMachine.create()
    entries = {
        "vcek": machine.certificate(),
        "ask": machine.issuer.der,
        "ark": machine.ark.der,
        "crl": machine.crl(int(time.time())),
    }
    table = certificate_table(entries)
    with running(
        Kernel(tmp_path / "report", "sev_guest", lambda data: (machine.report(data), table))
    ) as kernel:
        yield kernel


def test_a_machine_without_hardware_says_what_is_missing(command: Command) -> None:
    """Exit 1; each missing thing is a sentence with a remedy, in text and in JSON."""
    if TSM_ROOT.exists():
        pytest.skip("this machine has configfs-tsm")
    code, out, _ = command("attest")
    assert code == 1
    assert "missing: " in out
    assert "No full evidence." in out
    code, out, _ = command("attest", "--json")
    said = json.loads(out)
    assert code == 1
    assert said["complete"] is False
    assert {one["code"] for one in said["missing"]} >= {"no_tee"}
    assert all(one["message"] for one in said["missing"])
    assert said["cpu"] is None


def test_a_cpu_alone_is_full_evidence_where_no_gpu_is_missed(
    command: Command, kernel: Kernel, tmp_path: Path
) -> None:
    """Without --cpu-only the missing GPU is said, and the exit code says so too."""
    file = tmp_path / "bundle"
    code, out, _ = command("attest", "--tsm", kernel.root, "--cpu-only", "--out", file)
    assert (code, "Full evidence." in out) == (0, True)
    assert "an unknown root" in out, "these are no keys of AMD's"
    assert SnpMachine.create().measurement.hex() in out
    bundle = decode_bundle(file.read_bytes())
    appraisal = CPU_APPRAISERS[bundle.kind](bundle.cpu, int(time.time()), NO_COLLATERAL)
    assert appraisal.problems == ()
    assert appraisal.report_data == report_data(decode_claims(bundle.claims), b"")
    code, out, _ = command("attest", "--tsm", kernel.root, "--json")
    assert code == 1
    assert [one["code"] for one in json.loads(out)["missing"]] == ["no_gpu"]


def test_evidence_that_does_not_check_out_is_not_full(command: Command, tmp_path: Path) -> None:
    """The self-check is a verifier's: here Intel's collateral is missing, and the TD is open."""
    machine = TdxMachine.create()
    with running(
        Kernel(tmp_path / "r", "tdx_guest", lambda data: (machine.quote(data, debug=True), b""))
    ) as kernel:
        code, out, _ = command("attest", "--tsm", kernel.root, "--cpu-only", "--json")
    said = json.loads(out)
    assert code == 1
    assert said["cpu"]["debug"] is True
    assert {one["code"] for one in said["problems"]} >= {"collateral"}


def test_a_place_that_cannot_be_written_is_one_line(
    command: Command, kernel: Kernel, tmp_path: Path
) -> None:
    """Usage, exit 2."""
    out = tmp_path / "absent/file"
    code, _, err = command("attest", "--tsm", kernel.root, "--cpu-only", "--out", out)
    assert code == 2
    assert "choose another place" in err


def test_a_folder_of_collateral_that_is_not_there_is_missing(
    command: Command, kernel: Kernel, tmp_path: Path
) -> None:
    """As everything else that evidence needs."""
    code, out, _ = command(
        *("attest", "--tsm", kernel.root, "--cpu-only", "--json"),
        *("--collateral", tmp_path / "absent"),
    )
    assert code == 1
    assert [one["code"] for one in json.loads(out)["missing"]] == ["collateral"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NVIDIA's library, compiled from a few lines of C."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    path = tmp_path_factory.mktemp("nvml") / "library.so"
    subprocess.run(
        [
            *(compiler, "-shared", "-fPIC", "-Wall", "-Werror"),
            *("-Wl,-soname,libnvidia-ml.so.1", "-o", str(path), str(HERE / "nvml_library.c")),
        ],
        check=True,
        capture_output=True,
    )
    return path


def test_full_evidence_of_cpu_and_gpus_through_the_real_bindings(
    library: Path, tmp_path: Path
) -> None:
    """Two GPUs by NVML's own calls and layouts, a TD by the kernel's directory, in a process."""
    file = tmp_path / "bundle"
    run = subprocess.run(
        [
            *(sys.executable, str(HERE / "attest_process.py"), str(library), str(tmp_path)),
            *("attest", "--json", "--out", str(file)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr + run.stdout
    said = json.loads(run.stdout)
    assert said["complete"] is True
    assert (said["gpu"]["attested"], said["gpu"]["confidential"]) == (2, True)
    assert said["gpu"]["devices"][0]["architecture"] == "HOPPER"
    assert said["cpu"]["kind"] == "tdx"
    bundle = decode_bundle(file.read_bytes())
    claims, now = decode_claims(bundle.claims), int(time.time())
    gpu = gpu_appraiser(bundle.gpu)(bundle.gpu, now, NO_COLLATERAL)
    assert (gpu.problems, gpu.nonce, len(gpu.devices)) == ((), gpu_nonce(claims), 2)
    cpu = CPU_APPRAISERS["tdx"](bundle.cpu, now, NO_COLLATERAL)
    assert (cpu.problems, cpu.report_data) == ((), report_data(claims, bundle.gpu))


# Fetching collateral.


@contextmanager
def key_distribution(machine: SnpMachine, asked: list[str]) -> Iterator[str]:
    """AMD's service for one machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            parts = urlsplit(self.path)
            kind, line = machine.key, machine.product
            hwid = machine.chip_id[: 8 if line == "Turin" else 64].hex()
            answers: dict[str, bytes] = {
                f"/{kind}/v1/{line}/crl": machine.crl(int(time.time())),
                f"/{kind}/v1/{line}/cert_chain": b"".join(
                    one.certificate.public_bytes(Encoding.PEM)
                    for one in (machine.issuer, machine.ark)
                ),
            }
            names = {
                "blSPL": "bootloader",
                "teeSPL": "tee",
                "snpSPL": "snp",
                "ucodeSPL": "microcode",
                "fmcSPL": "fmc",
            }
            query = {names[name]: int(value[0]) for name, value in parse_qs(parts.query).items()}
            if parts.path == f"/vcek/v1/{line}/{hwid}" and query == machine.tcb:
                answers[parts.path] = machine.certificate()
            data = answers.get(parts.path)
            self.send_response(200 if data else 404)
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.integration
@pytest.mark.parametrize(
    ("product", "key"), [("Milan", "vcek"), ("Genoa", "vcek"), ("Turin", "vcek"), ("Genoa", "vlek")]
)
def test_what_amd_publishes_is_fetched_for_this_machine(
    command: Command, tmp_path: Path, product: str, key: str
) -> None:
    """Chip and TCB of the report are asked for, and what comes completes the evidence."""
    machine, asked = SnpMachine.create(product, key), list[str]()
    entries = {"vlek": machine.certificate()} if key == "vlek" else {}
    table = certificate_table(entries) if entries else b""
    folder = tmp_path / "collateral"
    with (
        key_distribution(machine, asked) as url,
        running(
            Kernel(tmp_path / "r", "sev_guest", lambda data: (machine.report(data), table))
        ) as kernel,
    ):
        code, out, _ = command("attest", "collateral", folder, "--kds", url, "--tsm", kernel.root)
        assert code == 0, out
        assert len(out.splitlines()) == len(asked) == (3 if key == "vcek" else 2)
        stored = load_collateral(folder)
        assert len(stored.snp_certificates) == len(asked)
        code, out, _ = command(
            *("attest", "--cpu-only", "--tsm", kernel.root, "--collateral", folder)
        )
        assert code == 0, out


@pytest.mark.integration
def test_a_genoa_of_an_old_firmware_is_found(command: Command, tmp_path: Path) -> None:
    """Reports before version 3 do not say which line they are from: both are asked for."""
    machine, asked = SnpMachine.create("Genoa"), list[str]()
    file = tmp_path / "report.bin"
    file.write_bytes(machine.report(bytes(64), version=2))
    with key_distribution(machine, asked) as url:
        code, out, _ = command(
            "attest", "collateral", tmp_path / "c", "--kds", url, "--report", file, "--json"
        )
    assert code == 0, out
    assert any("Genoa-vcek.der" in name for name in json.loads(out)["files"])
    assert asked[0].startswith("/vcek/v1/Milan/")


@pytest.mark.integration
def test_a_service_that_is_away_or_knows_nothing_is_one_line(
    command: Command, tmp_path: Path
) -> None:
    """Intel's and AMD's alike; nothing is written."""
    amd, intel = tmp_path / "amd", tmp_path / "intel"
    amd.write_bytes(SnpMachine.create().report(bytes(64)))
    intel.write_bytes(TdxMachine.create().quote(bytes(64)))
    folder = tmp_path / "c"
    nobody = "http://127.0.0.1:1"
    for file in (amd, intel):
        code, _, err = command(
            *("attest", "collateral", folder, "--report", file),
            *("--kds", nobody, "--pcs", nobody),
        )
        assert code == 2
        assert "cannot be fetched" in err
        assert err.count("\n") == 1
    with key_distribution(SnpMachine.create(chip=9), []) as url:
        code, _, err = command("attest", "collateral", folder, "--report", amd, "--kds", url)
        assert (code, "404" in err) == (2, True)
    assert not folder.exists()


def test_what_is_no_report_is_said_before_anything_is_asked(
    command: Command, tmp_path: Path
) -> None:
    """The network is off in this test, so nobody was asked."""
    for data in (b"", b"x" * 1184, b"x" * 5000):
        (tmp_path / "report").write_bytes(data)
        code, _, err = command(
            "attest", "collateral", tmp_path / "c", "--report", tmp_path / "report"
        )
        assert code == 2
        assert "neither a TDX quote nor a SEV-SNP report" in err
    code, _, err = command("attest", "collateral", tmp_path, "--report", tmp_path / "absent")
    assert (code, err.count("\n")) == (2, 1)


def test_a_chip_that_its_host_hides_cannot_be_asked_for(command: Command, tmp_path: Path) -> None:
    """The sentence says who can help."""
    file = tmp_path / "report"
    file.write_bytes(SnpMachine.create().report(bytes(64), chip_id=bytes(64)))
    code, _, err = command("attest", "collateral", tmp_path / "c", "--report", file)
    assert code == 2
    assert "the provider" in err
