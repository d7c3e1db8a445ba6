"""Which SPIFFE IDs a service has, where more than one trust domain is believed."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from meshagent.model.identity import Domains, TrustBundle
from meshagent.model.names import parse_spiffe_id, spiffe_id
from meshagent.state.foundation import with_roots
from meshagent.state.records import BundleRecord, decode, encode

OWN, OTHER = "mesh.internal", "0b2f.consul"
FORM = "ns/default/dc/dc1/svc"
BOTH = TrustBundle(((OTHER, ("b",)), (OWN, ("a",))), forms=((OTHER, FORM),))


def test_without_roots_there_is_the_meshs_own_domain_in_our_form():
    assert TrustBundle().domains(OWN).forms == ((OWN, "svc"),)


def test_a_service_has_one_id_in_each_domain_the_meshs_own_first():
    domains = BOTH.domains(OWN)
    assert domains.ids("web") == (f"spiffe://{OWN}/svc/web", f"spiffe://{OTHER}/{FORM}/web")
    assert domains.prefixes() == (f"spiffe://{OWN}/", f"spiffe://{OTHER}/{FORM}/")
    assert domains.consul == Domains(((OTHER, FORM),))


def test_a_domain_whose_roots_are_gone_counts_no_more():
    bundle = TrustBundle(((OTHER, ()), (OWN, ("a",))), forms=((OTHER, FORM),))
    assert bundle.domains(OWN).names == (OWN,)


def test_with_consuls_roots_alone_services_have_consuls_ids_alone():
    assert TrustBundle(((OTHER, ("b",)),), forms=((OTHER, FORM),)).domains(OWN).names == (OTHER,)


@pytest.mark.parametrize("form", ["svc", FORM, "ns/default/dc/eu_west-1/svc"])
def test_an_id_says_its_trust_domain_and_service_in_every_form(form):
    assert parse_spiffe_id(spiffe_id(OTHER, "web", form)) == (OTHER, "web")


@pytest.mark.parametrize(
    "form", ["host", "ns/team/dc/dc1/svc", "ns/default/dc//svc", "ns/default/dc/a/b/svc", "svc/svc"]
)
def test_other_forms_name_no_service(form):
    assert parse_spiffe_id(f"spiffe://{OTHER}/{form}/web") is None
    with pytest.raises(ValidationError):
        BundleRecord(roots={}, forms={OTHER: form})


def test_the_record_keeps_the_forms_and_is_as_it_always_was_without():
    assert decode(BundleRecord, encode(BundleRecord.of(BOTH))).bundle() == BOTH
    assert b"forms" not in encode(BundleRecord.of(TrustBundle(((OWN, ("a",)),))))


def test_roots_that_are_added_bring_their_form_along():
    merged = with_roots(BundleRecord(roots={OWN: ["a"]}), TrustBundle(((OTHER, ("b",)),), forms=((OTHER, FORM),)))
    assert merged.bundle() == BOTH


def test_the_digest_that_hosts_report_tells_forms_apart():
    assert BOTH.digest() != TrustBundle(BOTH.roots).digest()
