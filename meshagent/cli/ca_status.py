"""`meshagent ca status` and `ca roots`: whom this mesh believes, and who signs for it."""

from __future__ import annotations

from typing import Any

import click

from meshagent.cli.mesh import OpenMesh
from meshagent.cli.options import awaited, mesh_options
from meshagent.cli.output import Table, emit, show
from meshagent.cli.session import Session


@click.command()
@mesh_options("store", "config", "output")
@click.pass_obj
@awaited
async def status(session: Session) -> None:
    """The roots of the trust bundle and the signing authorities, each with its fingerprint and its end.

    \b
    Example:  meshagent ca status
    """
    async with session.mesh() as opened:
        value = await roots_and_authorities(opened)
    rows = [[each["trust_domain"], each["fingerprint"], each["ends_at"], each["state"]] for each in value["roots"]]
    waits = "waits for: ca root sign"
    others = [[each["name"], each["address"], each["ends_at"] or waits] for each in value["authorities"]]
    shown: list[str | Table] = [Table(("trust domain", "root", "ends", "state"), rows)]
    if others:
        shown += ["", Table(("authority", "address", "ends"), others)]
    show(value, session.form(), *shown)


@click.command()
@mesh_options("store", "config")
@click.pass_obj
@awaited
async def roots(session: Session) -> None:
    """The trusted roots as PEM, for a program outside of the mesh that has to know its certificates.

    \b
    Example:  meshagent ca roots > roots.pem
    """
    from meshagent.state.roots import read_roots

    async with session.mesh() as opened:
        found = await read_roots(opened.store, opened.keys, opened.signing.trust)
    for pems in found.bundle.roots.values():
        for pem in pems:
            emit(pem.strip())


async def roots_and_authorities(opened: OpenMesh) -> dict[str, list[dict[str, Any]]]:
    """The roots of the trust bundle and the authorities. Raises NotFound without a bundle, SignatureRefused, StoreDenied."""
    from meshagent.state.roots import read_roots

    found = await read_roots(opened.store, opened.keys, opened.signing.trust)
    roots = [
        _certificate(pem) | {"trust_domain": domain} for domain, pems in found.bundle.roots.items() for pem in pems
    ]
    for each in roots:
        each["state"] = "leaving" if each["fingerprint"].removeprefix("sha256:") in found.bundle.leaving else "trusted"
    return {"roots": roots, "authorities": await _authorities(opened)}


async def _authorities(opened: OpenMesh) -> list[dict[str, Any]]:
    from meshagent.state.enrolment import SignerRecord
    from meshagent.state.records import UnreadableRecord, decode

    found: list[dict[str, Any]] = []
    for key, entry in sorted((await opened.store.read(opened.keys.signers)).entries.items()):
        try:
            record = decode(SignerRecord, entry.value)
        except UnreadableRecord:
            continue
        facts = {"name": key.removeprefix(opened.keys.signers), "address": record.address}
        found.append(facts | (_certificate(record.intermediate) if record.intermediate else _NONE))
    return found


_NONE: dict[str, Any] = {"fingerprint": "", "ends_at": ""}


def _certificate(pem: str) -> dict[str, Any]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    from meshagent.ca.x509 import UNREADABLE

    try:
        found = x509.load_pem_x509_certificate(pem.encode())
    except UNREADABLE:
        return {"fingerprint": "(cannot be read)", "ends_at": ""}
    digest = found.fingerprint(hashes.SHA256()).hex()
    return {"fingerprint": f"sha256:{digest}", "ends_at": found.not_valid_after_utc.isoformat()}
