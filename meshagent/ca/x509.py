"""Keys, requests, and the check that every answer of every CA must pass before it is used (attack test 43).

Signatures, path building, CA flags and path lengths are left to cryptography's own verifier. What it does not judge, or
judges as a web browser would (who the certificate is for, for how long, whether its key is ours), is here.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from meshagent.errors import CertificateRefused
from meshagent.model.identity import Svid, TrustBundle
from meshagent.model.names import parse_spiffe_id

MAX_ANSWER_BYTES = 64 * 1024
MAX_CERTIFICATES = 10
MAX_INTERMEDIATES = 4
CLOCK_AHEAD = timedelta(seconds=60)  # how far the CA's clock may be ahead of ours
LONGER_THAN_ASKED = timedelta(seconds=300)  # and how much later than asked its certificate may end
LONGEST_HOST_TTL = timedelta(days=90)  # of a host's own certificate
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
UNREADABLE = (  # all that cryptography raises on a certificate or request that is broken or too strange
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

Wanted = TypeVar("Wanted", bound=x509.ExtensionType)
_NEXT_STEP = "correct the CA's profile or role; a certificate that is in use stays until it ends"
_ANY_LIFE = timedelta(days=3650)
_BOTH_USES = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)
_CLIENT_USE = (ExtendedKeyUsageOID.CLIENT_AUTH,)
_USE_NAMES = {ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth", ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth"}


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as unencrypted PKCS #8 PEM, which is what Envoy reads."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_weakness(key: PublicKeyTypes) -> str:
    """Why a certificate for this public key is of no use to us, or "".

    Measured on Envoy 1.40: it loads certificates with P-521 and Ed25519 keys, but every handshake with them fails.
    """
    if isinstance(key, rsa.RSAPublicKey):
        if MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            return ""
        return f"RSA of {key.key_size} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are accepted"
    if isinstance(key, ec.EllipticCurvePublicKey):
        fits = isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
        return "" if fits else f"curve {key.curve.name}; P-256 and P-384 are accepted"
    return f"{type(key).__name__.removesuffix('PublicKey')}; ECDSA P-256 or P-384 and RSA are accepted"


def key_der(key: PublicKeyTypes) -> bytes:
    """The public key as DER SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def accept(
    chain_pem: bytes,
    key_pem: bytes,
    spiffe_id: str,
    bundle: TrustBundle,
    trust_domain: str,
    now: datetime,
    max_ttl: timedelta,
) -> Svid:
    """The answer of a CA as an SVID, after every check; raises CertificateRefused with the first reason against it.

    It must be a chain, leaf first, of at most 64 KiB, for our key, with exactly one name: `spiffe_id`, as a URI; for an
    end entity, to be client and server; valid now, and for at most `max_ttl` more (with some seconds for clocks that
    differ); and it must lead to a root that `bundle` holds for `trust_domain`: roots of other trust domains do not
    count. `Svid.expires_at` is the first moment at which any certificate of the chain ends. Pinned roots that came
    along in the answer are left out of `Svid.chain_pem`, and so is anything that is not a certificate.
    """
    asked = parse_spiffe_id(spiffe_id)
    if asked is None or asked[0] != trust_domain:
        raise _refused(f"{spiffe_id!r} is not a SPIFFE ID of {trust_domain}")
    return _accepted(chain_pem, key_pem, spiffe_id, _BOTH_USES, bundle, trust_domain, now, max_ttl)


def host_id(trust_domain: str, host: str) -> str:
    """The name in a host's own certificate. `parse_spiffe_id` takes it for no service's."""
    return f"spiffe://{trust_domain}/host/{host}"


def accept_host(
    chain_pem: bytes, key_pem: bytes, host: str, bundle: TrustBundle, trust_domain: str, now: datetime
) -> Svid:
    """A host's own certificate, which is shown to an authority and never to a peer, after the same checks as a service's.

    Its one name is `host_id`, and it need be good for a client only. Raises CertificateRefused.
    """
    name = host_id(trust_domain, host)
    return _accepted(chain_pem, key_pem, name, _CLIENT_USE, bundle, trust_domain, now, LONGEST_HOST_TTL)


def _accepted(
    chain_pem: bytes,
    key_pem: bytes,
    name: str,
    uses: tuple[x509.ObjectIdentifier, ...],
    bundle: TrustBundle,
    trust_domain: str,
    now: datetime,
    max_ttl: timedelta,
) -> Svid:
    try:
        leaf, *issuers = _parse(chain_pem)
        _check_key(leaf, key_pem)
        _check_names(leaf, name)
        _check_uses(leaf, uses)
        if len(bundle.domains(trust_domain).forms) > 1 and _extension(leaf, x509.KeyUsage) is None:
            raise _refused(
                "the certificate has no keyUsage, without which Envoy refuses it beside another trust domain"
            )
        _check_validity(leaf, now, max_ttl)
        roots = _roots(bundle, trust_domain)
        path = _verified_path(leaf, issuers, roots, trust_domain, now)
        return _svid(name, key_pem, [leaf, *(one for one in issuers if one not in roots)], path)
    except UNREADABLE as error:
        raise _refused(f"the certificate cannot be read: {error}") from error


def check_peer(chain_pem: bytes, spiffe_id: str, bundle: TrustBundle, now: datetime) -> x509.Certificate:
    """The certificate of somebody who says to be this service, after the same checks as our own, but for the key.

    Raises CertificateRefused.
    """
    trust_domain = (parse_spiffe_id(spiffe_id) or ("", ""))[0]
    try:
        leaf, *issuers = _parse(chain_pem)
        _check_names(leaf, spiffe_id)
        _check_uses(leaf, _BOTH_USES)
        _check_validity(leaf, now, _ANY_LIFE)
        _verified_path(leaf, issuers, _roots(bundle, trust_domain), trust_domain, now)
    except UNREADABLE as error:
        raise _refused(f"the certificate cannot be read: {error}") from error
    return leaf


def _refused(reason: str) -> CertificateRefused:
    return CertificateRefused(reason, next_step=_NEXT_STEP)


def _parse(chain_pem: bytes) -> list[x509.Certificate]:
    if len(chain_pem) > MAX_ANSWER_BYTES:
        raise _refused(f"the answer has {len(chain_pem)} bytes; at most {MAX_ANSWER_BYTES} are read")
    try:
        certificates = x509.load_pem_x509_certificates(chain_pem)
    except ValueError as error:
        raise _refused(f"the answer is not a chain of PEM certificates: {error}") from error
    if len(certificates) > MAX_CERTIFICATES:
        raise _refused(f"the answer holds {len(certificates)} certificates; at most {MAX_CERTIFICATES} are read")
    return certificates


def _check_key(leaf: x509.Certificate, key_pem: bytes) -> None:
    ours = serialization.load_pem_private_key(key_pem, password=None).public_key()
    theirs = leaf.public_key()
    if key_der(ours) != key_der(theirs):
        raise _refused("the certificate is for another key than ours")
    if weakness := key_weakness(theirs):
        raise _refused(f"the certificate's key is not accepted: {weakness}")


def _check_names(leaf: x509.Certificate, spiffe_id: str) -> None:
    names = _extension(leaf, x509.SubjectAlternativeName)
    if names is None:
        raise _refused(f"the certificate names nobody: it has no subject alternative name ({spiffe_id} was asked)")
    found = [f"{type(name).__name__} {name.value!r}" for name in names]
    if len(found) != 1:
        raise _refused(f"the certificate must have one name, {spiffe_id}, and has {len(found)}: {', '.join(found)}")
    if not isinstance(names[0], x509.UniformResourceIdentifier):
        raise _refused(f"the certificate's name must be a URI and is {found[0]}")
    if names[0].value != spiffe_id:
        raise _refused(f"the certificate is for {names[0].value!r} and not for {spiffe_id}")


def _check_uses(leaf: x509.Certificate, uses: tuple[x509.ObjectIdentifier, ...]) -> None:
    """An end entity, of these uses. Without basicConstraints it is one too (RFC 5280, 4.2.1.9)."""
    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise _refused("the certificate is a CA's (basicConstraints CA:TRUE)")
    usage = _extension(leaf, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        raise _refused("the certificate's keyUsage lacks digitalSignature")
    if usage is not None and (usage.key_cert_sign or usage.crl_sign):
        raise _refused("the certificate's keyUsage is a CA's (keyCertSign or cRLSign)")
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    if extended is None or not all(use in extended for use in uses):
        needed = " and ".join(_USE_NAMES[use] for use in uses)
        raise _refused(f"the certificate's extendedKeyUsage must hold {needed}")


def _check_validity(leaf: x509.Certificate, now: datetime, max_ttl: timedelta) -> None:
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if ends <= now:
        raise _refused(f"the certificate ended at {_utc(ends)}; here it is {_utc(now)}")
    if begins > now + CLOCK_AHEAD:
        raise _refused(f"the certificate begins at {_utc(begins)}; here it is {_utc(now)}: compare the clocks")
    if ends > now + max_ttl + LONGER_THAN_ASKED:
        raise _refused(f"the certificate ends at {_utc(ends)}, later than the {max_ttl} asked for")


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _roots(bundle: TrustBundle, trust_domain: str) -> list[x509.Certificate]:
    pem = bundle.pem(trust_domain)
    if not pem:
        raise _refused(f"no root is pinned for {trust_domain}")
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise _refused(f"the pinned roots of {trust_domain} cannot be read: {error}") from error


def _verified_path(
    leaf: x509.Certificate,
    issuers: list[x509.Certificate],
    roots: list[x509.Certificate],
    trust_domain: str,
    now: datetime,
) -> list[x509.Certificate]:
    """Leaf to root. Judged at the leaf's beginning when that is a few seconds ahead of our clock."""
    for place, issuer in enumerate(issuers, start=2):
        constraints = _extension(issuer, x509.BasicConstraints)
        if constraints is None or not constraints.ca:
            raise _refused(f"certificate {place} of the chain is not a CA's")
    verifier = (
        PolicyBuilder()
        .store(Store(roots))
        .time(max(now, leaf.not_valid_before_utc))
        .max_chain_depth(MAX_INTERMEDIATES)
        .extension_policies(ca_policy=_CA_POLICY, ee_policy=ExtensionPolicy.permit_all())
        .build_client_verifier()
    )
    try:
        return verifier.verify(leaf, issuers).chain
    except VerificationError as error:
        reason = str(error).split(" (encountered", 1)[0].removeprefix("validation failed: ")
        raise _refused(f"the certificate does not lead to a pinned root of {trust_domain}: {reason}") from error


def _may_sign_certificates(_: Policy, __: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("a CA's keyUsage lacks keyCertSign")


# The web's own rules ask CAs for extensions that `openssl req -x509` does not set (keyUsage, authorityKeyIdentifier).
# CA:TRUE and the path length are checked by the verifier under any policy, unknown critical extensions are refused.
_CA_POLICY = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign_certificates)
)


def _extension(certificate: x509.Certificate, kind: type[Wanted]) -> Wanted | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _svid(spiffe_id: str, key_pem: bytes, chain: list[x509.Certificate], path: list[x509.Certificate]) -> Svid:
    return Svid(
        spiffe_id=spiffe_id,
        chain_pem=b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain),
        key_pem=key_pem,
        serial=format(chain[0].serial_number, "x"),
        not_before=chain[0].not_valid_before_utc,
        expires_at=min(one.not_valid_after_utc for one in path),
        root_digest=path[-1].fingerprint(hashes.SHA256()).hex(),
    )
