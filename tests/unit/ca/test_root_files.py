"""Two roots side by side: which one signs is said by one file, and a crash between any two writes leaves a CA that works."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from meshagent.ca import root_files
from meshagent.ca.builtin import open_builtin
from meshagent.ca.keys import new_key_and_csr
from meshagent.ca.root_files import (
    create_root,
    destroy_spare,
    digest_of,
    load_root,
    make_active,
    prepare_next,
    spare_digests,
)
from meshagent.ca.x509 import accept, key_der
from meshagent.errors import AuthorityUnavailable, NotFound
from meshagent.model.identity import TrustBundle

NOW = datetime.now(UTC)
DOMAIN = "mesh.internal"
WEB = "spiffe://mesh.internal/svc/web"
HOUR = timedelta(hours=1)


@pytest.fixture
def ca(tmp_path):
    path = tmp_path / "ca"
    path.mkdir(mode=0o700)
    create_root(path, DOMAIN, NOW)
    return path


class Crash(BaseException):
    pass


def crash_at(monkeypatch, number):
    """Let the process end instead of the write or deletion of that number, from 0."""
    done = []

    def counted(operation):
        def call(*arguments):
            if len(done) == number:
                raise Crash
            done.append(operation)
            return operation(*arguments)

        return call

    monkeypatch.setattr(root_files, "write_private", counted(root_files.write_private))
    monkeypatch.setattr(root_files, "_remove", counted(root_files._remove))


def active(path):
    """The digest of the root that signs, whose key must be the one that belongs to it."""
    issuer = load_root(path)
    assert key_der(issuer.key.public_key()) == key_der(issuer.certificate.public_key())
    return digest_of(issuer.certificate)


def test_a_next_root_is_of_the_same_trust_domain_and_depth_and_does_not_sign_yet(tmp_path):
    path = tmp_path / "root"
    path.mkdir(mode=0o700)
    first = create_root(path, DOMAIN, NOW, path_length=1)
    made = prepare_next(path, NOW)
    assert active(path) == digest_of(first.certificate) and spare_digests(path) == {digest_of(made)}
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 1
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["spiffe://mesh.internal"]
    assert {each.stat().st_mode & 0o777 for each in path.glob("spare-*")} == {0o600}


def test_a_next_root_that_was_prepared_before_is_taken_again_unless_it_was_retired(ca):
    made = digest_of(prepare_next(ca, NOW))
    assert digest_of(prepare_next(ca, NOW)) == made
    assert digest_of(prepare_next(ca, NOW, frozenset({made}))) != made


def test_roots_change_places_and_back(ca):
    old, new = active(ca), digest_of(prepare_next(ca, NOW))
    assert make_active(ca, new) and active(ca) == new and spare_digests(ca) == {old}
    assert not make_active(ca, new)
    assert make_active(ca, old) and active(ca) == old and spare_digests(ca) == {new}


def test_a_root_that_is_not_there_or_has_no_key_does_not_become_active(ca):
    new = digest_of(prepare_next(ca, NOW))
    destroy_spare(ca, new)
    for digest in (new, "f" * 64):
        with pytest.raises(NotFound):
            make_active(ca, digest)


def test_without_a_root_there_is_no_next_one(tmp_path):
    with pytest.raises(AuthorityUnavailable, match="holds no root"):
        prepare_next(tmp_path, NOW)


def test_a_spare_that_is_destroyed_leaves_its_certificate_and_no_key(ca):
    old, new = active(ca), digest_of(prepare_next(ca, NOW))
    make_active(ca, new)
    destroy_spare(ca, old)
    destroy_spare(ca, old)
    assert active(ca) == new and not spare_digests(ca)
    (kept,) = ca.glob("retired-*.pem")
    assert digest_of(x509.load_pem_x509_certificate(kept.read_bytes())) == old
    assert [each.name for each in ca.glob("*.key")] == ["root.key"]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("back", [False, True])
def test_a_crash_while_roots_change_places_leaves_a_ca_that_signs_and_the_change_can_go_on_or_back(
    ca, monkeypatch, number, back
):
    old, new = active(ca), digest_of(prepare_next(ca, NOW))
    with monkeypatch.context() as patched:
        crash_at(patched, number)
        try:
            make_active(ca, new)
        except Crash:
            assert number < 5
        else:
            assert number == 5
    assert active(ca) in {old, new}
    wanted = old if back else new
    make_active(ca, wanted)
    assert active(ca) == wanted and (new if back else old) in spare_digests(ca)
    destroy_spare(ca, new if back else old)
    assert key_der(load_root(ca).key.public_key()) == key_der(root_files._load_key(ca / "root.key").public_key())


@pytest.mark.parametrize("number", range(3))
def test_a_crash_while_a_spare_is_destroyed_is_made_good_by_the_next_try(ca, monkeypatch, number):
    old, new = active(ca), digest_of(prepare_next(ca, NOW))
    make_active(ca, new)
    with monkeypatch.context() as patched:
        crash_at(patched, number)
        with pytest.raises(Crash):
            destroy_spare(ca, old)
    destroy_spare(ca, old)
    assert active(ca) == new and not spare_digests(ca) and list(ca.glob("retired-*.pem"))


async def test_the_built_in_ca_signs_with_the_other_root_from_the_moment_at_which_it_is_active(ca):
    authority = open_builtin(ca, DOMAIN, clock=lambda: NOW)
    old, new = await authority.bundle(), prepare_next(ca, NOW)
    assert await authority.bundle() == old
    make_active(ca, digest_of(new))
    assert await authority.bundle() != old
    key, csr = new_key_and_csr(WEB)
    chain = await authority.sign(csr, WEB, HOUR)
    both = TrustBundle(((DOMAIN, (*old.of(DOMAIN), *(await authority.bundle()).of(DOMAIN))),))
    assert accept(chain, key, WEB, both, DOMAIN, NOW, HOUR).root_digest == digest_of(new)


async def test_the_built_in_ca_signs_nothing_with_the_root_of_another_mesh_that_was_put_in_its_place(ca, tmp_path):
    authority = open_builtin(ca, DOMAIN, clock=lambda: NOW)
    other = tmp_path / "other"
    open_builtin(other, "other.internal", clock=lambda: NOW)
    for name in ("root.key", "root.pem"):
        (other / name).replace(ca / name)
    with pytest.raises(AuthorityUnavailable, match=r"no root of mesh\.internal"):
        await authority.sign(new_key_and_csr(WEB)[1], WEB, HOUR)
