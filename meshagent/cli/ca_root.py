"""`meshagent ca root`: the mesh's root on its way, and the authorities that it signs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshagent.cli.mesh import now_utc
from meshagent.cli.options import awaited, mesh_options
from meshagent.cli.output import say, show
from meshagent.cli.session import Session
from meshagent.errors import UsageProblem

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from meshagent.config.authority import AuthorityConfig

_FILE = click.Path(dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(file_okay=False, path_type=Path)
_settings = click.option("--authority", "file", type=_FILE, metavar="FILE", help="The authority's settings.")
_root = click.option("--root", type=_DIRECTORY, metavar="DIR", help="The directory of the root; else the authority's.")
_passphrase = click.option(
    "--passphrase-file", type=_FILE, metavar="FILE", help="File (0600) with the passphrase; else it is asked for."
)


@click.group("root")
def root_group() -> None:
    """The mesh's root: move it off a machine, put it back, sign authorities with it.

    \b
    Example:  meshagent ca root export /media/usb/root.pem --remove
    """


@root_group.command("export")
@click.argument("target", type=_FILE)
@click.option("--remove", is_flag=True, help="Delete it here, once it was written and read back.")
@_passphrase
@_root
@_settings
@mesh_options("output")
@click.pass_obj
def export(
    session: Session, target: Path, root: Path | None, file: Path | None, passphrase_file: Path | None, *, remove: bool
) -> None:
    """Write the root into one file (0600), its key encrypted under a passphrase. Nothing is overwritten.

    An authority goes on without the root, on its intermediate; one that was removed is needed again when that ends.

    \b
    Example:  meshagent ca root export /media/usb/root.pem --remove
    """
    from meshagent.ca.root_transport import export_root

    directory = root or _configured(file).root_dir
    certificate = export_root(directory, target, _secret(passphrase_file, confirm=True), remove=remove)
    left = "and deleted here" if remove else "and is still here"
    _tell(session, certificate, target, f"the root was written to {target} {left}")


@root_group.command("import")
@click.argument("source", type=_FILE)
@_passphrase
@_root
@_settings
@mesh_options("output")
@click.pass_obj
def import_(session: Session, source: Path, root: Path | None, file: Path | None, passphrase_file: Path | None) -> None:
    """Put a root that was exported into this machine's directory, where none is yet.

    \b
    Example:  meshagent ca root import /media/usb/root.pem
    """
    from meshagent.ca.root_transport import import_root

    directory = root or _configured(file).root_dir
    certificate = import_root(directory, source, _secret(passphrase_file, confirm=False))
    _tell(session, certificate, directory, f"the root is in {directory}")


@root_group.command("sign")
@click.argument("name")
@click.option(
    "--fingerprint", metavar="SHA256", help="The key's fingerprint as that authority tells it; then nobody is asked."
)
@_root
@_settings
@mesh_options("store", "output")
@click.pass_obj
@awaited
async def sign(session: Session, name: str, root: Path | None, file: Path | None, fingerprint: str | None) -> None:
    """Let another authority sign for this mesh: gives it an intermediate of the root that this machine holds.

    Compare the fingerprint with the one in that authority's own log or health: whoever can write the store can ask.

    \b
    Example:  meshagent ca root sign authority-2
    """
    from meshagent.authority.signers import countersign, waiting
    from meshagent.ca.issuance import trust_domain_of
    from meshagent.ca.root_files import load_root
    from meshagent.cli.logs import quiet_log
    from meshagent.state.keys import Keys
    from meshagent.state.reach import open_configured

    quiet_log()
    config = _configured(file)
    held = load_root(root or config.root_dir)
    if held is None:
        raise UsageProblem(
            f"{root or config.root_dir} holds no root", next_step="run this where the root is, or name it"
        )
    store = await open_configured(config, session.store or "")
    try:
        asked = await waiting(store, Keys(), name)
        _confirm(name, asked.record.address, asked.fingerprint, fingerprint)
        made = await countersign(store, Keys(), asked, held, trust_domain_of(held.certificate), now_utc())
    finally:
        await store.close()
    value = {"name": name, "address": made.address, "fingerprint": made.fingerprint}
    show(value, session.form(), f"{name} at {made.address} signs for this mesh from now on")


def _confirm(name: str, address: str, found: str, told: str | None) -> None:
    """Raises UsageProblem unless the key is the right one, as told or as a person says."""
    wanted = (told or "").lower().removeprefix("sha256:").replace(":", "")
    if told is not None and wanted != found:
        raise UsageProblem(
            f"{name} asks with the key sha256:{found}, not with sha256:{wanted}",
            next_step="look at that authority's log: another key means another machine",
        )
    if told is None:
        say(f"{name} at {address} asks to sign for this mesh, with the key\n  sha256:{found}")
        if not sys.stdin.isatty() or not click.confirm("Is that its key?", err=True):
            raise UsageProblem(
                f"{name} was not signed", next_step=f"--fingerprint sha256:{found}, once you compared it"
            )


def _secret(file: Path | None, *, confirm: bool) -> str:
    if file is None:
        return str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))
    from meshagent.private import read_private

    return read_private(file.absolute(), 4096).decode(errors="replace").strip()


def _configured(file: Path | None) -> AuthorityConfig:
    from meshagent.config.authority import load_authority_config

    return load_authority_config(file)


def _tell(session: Session, certificate: Certificate, place: Path, words: str) -> None:
    from meshagent.ca.issuance import trust_domain_of
    from meshagent.ca.root_files import digest_of

    digest, domain = digest_of(certificate), trust_domain_of(certificate)
    value = {"trust_domain": domain, "fingerprint": f"sha256:{digest}", "place": str(place)}
    show(value, session.form(), words, f"  {domain}, sha256:{digest}")
