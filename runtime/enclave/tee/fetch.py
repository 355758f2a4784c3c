"""Fetch collateral from the vendors, for an operator; an enclave itself never does."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import dcap_qvl  # type: ignore[import-untyped]  # its stubs lie beside it without py.typed

from proofs.evidence import tdx
from proofs.evidence.snp_report import REPORT_SIZE, read_report
from proofs.log.files import write_whole
from runtime.collateral import MAX_FILE
from runtime.enclave.tee.amd import KDS_URL, kds_paths, lines
from runtime.enclave.tee.errors import TeeError

PCS_URL = "https://api.trustedservices.intel.com"
_TIMEOUT = aiohttp.ClientTimeout(total=60)


async def fetch_collateral(
    report: bytes, folder: Path, *, pcs_url: str = PCS_URL, kds_url: str = KDS_URL
) -> list[Path]:
    """Write into `folder` what the vendor publishes for the machine that made `report`.

    Each file is replaced whole, so that an enclave may read the folder at any time.

    Args:
        report: A TDX quote or a SEV-SNP report.
        folder: Laid out as `runtime.collateral` says; made where it is missing.
        pcs_url: Intel's Provisioning Certification Service, or an operator's cache of it.
        kds_url: AMD's Key Distribution Service, or a cache of it.

    Returns:
        The files written.

    Raises:
        TeeError: `collateral`: the vendor cannot be reached, or has nothing for this machine.
        UnreadableError: Neither a quote nor a report.
    """
    if len(report) == REPORT_SIZE:
        found = await _fetch_amd(report, kds_url)
    else:
        found = {"tdx.json": await _fetch_intel(report, pcs_url)}
    written = []
    for name, data in found.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
        written.append(path)
    return written


async def _fetch_intel(quote: bytes, url: str) -> bytes:
    tdx.encode_evidence(quote, None)  # refuses what is no quote, before anybody is asked
    try:
        collateral = await dcap_qvl.get_collateral(url, quote)
    # Of the network and of what came back alike.
    except (ValueError, RuntimeError) as error:
        raise TeeError(
            f"Intel's collateral cannot be fetched from {url} ({error}); this needs the "
            "network, or a cache of your own: --pcs URL",
            code="collateral",
        ) from None
    return str(collateral.to_json()).encode()


async def _fetch_amd(data: bytes, url: str) -> dict[str, bytes]:
    report = read_report(data)
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        refused = ""
        for line in lines(report):
            found = {}
            for name, path in kds_paths(report, line).items():
                try:
                    found[f"snp/{name}"] = await _get(session, url.rstrip("/") + path)
                except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                    refused = f"{type(error).__name__}: {error}"
                    break
            else:
                return found
    raise TeeError(
        f"AMD's certificates cannot be fetched from {url} ({refused}); this needs the "
        "network, or a cache of your own: --kds URL",
        code="collateral",
    )


async def _get(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url) as response:
        response.raise_for_status()
        data = await response.content.read(MAX_FILE + 1)
        while len(data) <= MAX_FILE and (more := await response.content.read(MAX_FILE)):
            data += more
        if len(data) > MAX_FILE:
            raise ValueError(f"more than {MAX_FILE} bytes")
        return data
