"""A service vouches for what it says in the store, with the key of its SVID."""

from __future__ import annotations

import base64
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.ca.x509 import UNREADABLE, check_peer
from meshagent.errors import CertificateRefused
from meshagent.model.identity import Svid, TrustBundle

_STEP = "find out who wrote it; it is not used"


def vouch(svid: Svid, content: bytes) -> str:
    """The signature of the content, in base64. Raises CertificateRefused where the CA made a key of another kind."""
    key = serialization.load_pem_private_key(svid.key_pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateRefused("the service's key is not ECDSA, so it cannot vouch for anything", next_step="")
    return base64.b64encode(key.sign(content, ec.ECDSA(hashes.SHA256()))).decode()


def check_vouched(
    content: bytes, signature: str, chain_pem: bytes, spiffe_id: str, bundle: TrustBundle, now: datetime
) -> None:
    """Raises CertificateRefused unless the service of that SPIFFE ID signed the content."""
    key = check_peer(chain_pem, spiffe_id, bundle, now).public_key()
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise CertificateRefused("what vouches for it is not ECDSA", next_step=_STEP)
        key.verify(base64.b64decode(signature, validate=True), content, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, *UNREADABLE):
        raise CertificateRefused(f"{spiffe_id} does not vouch for it", next_step=_STEP) from None
