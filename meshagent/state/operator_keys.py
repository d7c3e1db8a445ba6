"""The keys that policy is signed with and believed by, from the files and texts that a configuration names."""

from __future__ import annotations

from pathlib import Path

from meshagent.config import StoreConfig
from meshagent.errors import NotFound, UsageProblem
from meshagent.private import read_private, write_private
from meshagent.state.signing import Signing, Trust, UnusableKey, new_signer, parse_public, parse_signer, public_text

_LONGEST = 16 * 1024  # bytes


def load_signing(config: StoreConfig) -> Signing:
    """What this machine signs policy with, and whom it believes: its own key and `policy_public_keys`.

    Raises UsageProblem for what is no key, NotFound and UnsafeFile for the file of the private one.
    """
    trusted = [_public(each) for each in config.policy_public_keys]
    if config.policy_signing_key is None:
        return Signing(None, Trust.of(*trusted))
    path = config.policy_signing_key
    try:
        signer = parse_signer(read_private(path, _LONGEST))
    except NotFound:
        step = f"meshagent policy key {path} makes one; or name another"
        raise NotFound(f"policy_signing_key: {path} does not exist", next_step=step) from None
    except UnusableKey as error:
        raise UsageProblem(f"policy_signing_key: {path} {error}", next_step="meshagent policy key FILE") from None
    return Signing(signer, Trust.of(*trusted, signer.public))


def create_key(path: Path) -> str:
    """Make a new private key in a file (0600) that is not there yet; gives its public half, as settings have it.

    Raises UsageProblem when there is something at the path, UnsafeFile and DataDirUnusable.
    """
    if path.is_symlink() or path.exists():
        raise UsageProblem(
            f"{path} is there already", next_step="name a new file: a key that is lost cannot be made again"
        )
    signer, pem = new_signer()
    write_private(path.absolute(), pem)
    return public_text(signer.public)


def _public(given: str) -> bytes:
    """The public key that a text or the file that it names holds."""
    try:
        if given.startswith("/"):
            return parse_public(_read(Path(given)))
        return parse_public(given)
    except UnusableKey as error:
        shown = given if given.startswith("/") else ascii(given[:80])
        raise UsageProblem(
            f"policy_public_keys: {shown} {error}", next_step="meshagent policy key FILE prints the public half"
        ) from None


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(_LONGEST).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageProblem(
            f"policy_public_keys: {path} cannot be read: {error}", next_step="check its owner and mode"
        ) from None
