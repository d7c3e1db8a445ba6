"""What is answered to a DNS packet: names of this mesh by its own rules, nothing else, and never an exception."""

from __future__ import annotations

import struct

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataset
import dns.rdatatype
import dns.reversename
import dns.tsig
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.host.zone import LARGEST, NEGATIVE_TTL, PLAIN_UDP, TTL, UDP_PAYLOAD, Zone, answer, zone_of
from meshagent.model.virtual import VIRTUAL_NETWORKS, virtual_addresses

ZONE = zone_of("mesh", ["payments", "api"])
TWINS = ("service-12694", "service-5771")  # they share an IPv4 address


def ask(name, kind="A", zone=ZONE, tcp=False, **more):
    """The result, and the response as a resolver reads it."""
    query = dns.message.make_query(name, kind, **more)
    reply = answer(query.to_wire(), zone, tcp=tcp)
    response = dns.message.from_wire(reply.wire)
    assert query.is_response(response)
    assert not response.flags & dns.flags.RA
    return reply.result, response


def texts(rrsets):
    return [
        (rrset.name.to_text(), dns.rdatatype.to_text(rrset.rdtype), str(each)) for rrset in rrsets for each in rrset
    ]


def test_a_service_has_its_virtual_addresses_and_a_short_life():
    for kind, address in zip(("A", "AAAA"), virtual_addresses("payments"), strict=True):
        result, response = ask("payments.mesh", kind)
        assert result == "answered" and response.flags & dns.flags.AA
        assert texts(response.answer) == [("payments.mesh.", kind, str(address))]
        assert response.answer[0].ttl == TTL <= 60


def test_any_is_answered_by_the_addresses_alone():
    _, response = ask("payments.mesh", "ANY")
    assert {rrset.rdtype for rrset in response.answer} == {dns.rdatatype.A, dns.rdatatype.AAAA}


def test_upper_and_mixed_case_find_the_service_and_come_back_letter_for_letter():
    for name in ("PAYMENTS.MESH", "pAyMeNtS.mEsH"):
        query = dns.message.make_query(name, "A").to_wire()
        reply = answer(query, ZONE, tcp=False)
        asked = dns.name.from_text(name).to_wire()
        assert reply.result == "answered" and reply.wire[12 : 12 + len(asked)] == asked
        assert dns.message.from_wire(reply.wire).answer[0].name.to_text() == f"{name}."


@pytest.mark.parametrize("kind", ["SRV", "TXT", "MX", "CNAME", "HTTPS", "SOA", "NS", "DS", "PTR", "TYPE65280"])
def test_another_type_of_a_service_is_no_data_and_not_a_missing_name(kind):
    result, response = ask("payments.mesh", kind)
    assert result == "nodata" and response.rcode() == dns.rcode.NOERROR and not response.answer
    assert response.authority[0].name.to_text() == "mesh." and response.authority[0].rdtype == dns.rdatatype.SOA


@pytest.mark.parametrize("name", ["unknown.mesh", "a.payments.mesh", "_http._tcp.payments.mesh", "*.mesh", "web.mesh"])
def test_an_unknown_name_of_the_zone_is_missing_for_a_few_seconds(name):
    for kind in ("A", "AAAA", "ANY", "SRV"):
        result, response = ask(name, kind)
        assert result == "nxdomain" and response.rcode() == dns.rcode.NXDOMAIN and response.flags & dns.flags.AA
        soa = response.authority[0]
        assert soa.ttl == soa[0].minimum == NEGATIVE_TTL


def test_the_zone_itself_has_a_start_and_no_address():
    assert texts(ask("mesh", "SOA")[1].answer)[0][2].startswith("mesh. nobody.invalid. ")
    assert texts(ask("mesh", "NS")[1].answer) == [("mesh.", "NS", "mesh.")]
    assert ask("mesh", "A")[0] == "nodata"


@pytest.mark.parametrize(
    "name",
    [
        ".",
        "com",
        "example.com",
        "localhost",
        "payments",
        "payments.mesh.example.com",
        "xmesh",
        "1.0.0.127.in-addr.arpa",
    ],
)
def test_no_other_name_is_ever_answered(name):
    for kind in ("A", "ANY", "NS", "PTR"):
        result, response = ask(name, kind)
        assert result == "refused" and response.rcode() == dns.rcode.REFUSED
        assert not (response.answer or response.authority or response.additional or response.flags & dns.flags.AA)


def test_addresses_lead_back_to_their_names_and_a_stranger_to_none():
    for address in virtual_addresses("payments"):
        name = dns.reversename.from_address(str(address))
        assert texts(ask(name, "PTR")[1].answer) == [(name.to_text(), "PTR", "payments.mesh.")]
        assert ask(name, "A")[0] == "nodata"
    for network in VIRTUAL_NETWORKS:
        assert ask(dns.reversename.from_address(str(network[-1])), "PTR")[0] == "nxdomain"


def test_an_empty_name_above_an_address_exists_since_resolvers_conclude_from_one_that_does_not():
    for address in virtual_addresses("payments"):
        name = dns.reversename.from_address(str(address)).parent()
        while name not in ZONE.apexes:
            assert ask(name, "PTR")[0] == "nodata", name
            name = name.parent()


def test_a_zone_of_several_labels_is_only_that_one():
    zone = zone_of("svc.example.internal", ["payments"])
    assert ask("payments.svc.example.internal", zone=zone)[0] == "answered"
    assert ask("payments.mesh", zone=zone)[0] == ask("example.internal", zone=zone)[0] == "refused"


def test_services_that_share_an_address_get_only_the_one_that_they_do_not_share():
    zone = zone_of("mesh", [*TWINS, "payments"])
    for name in TWINS:
        assert ask(f"{name}.mesh", zone=zone)[0] == "nodata"
        assert texts(ask(f"{name}.mesh", "AAAA", zone=zone)[1].answer)[0][2] == str(virtual_addresses(name)[1])
    shared = dns.reversename.from_address(str(virtual_addresses(TWINS[0])[0]))
    assert ask(shared, "PTR", zone=zone)[0] == "nxdomain"
    assert ask("payments.mesh", zone=zone)[0] == "answered"


def test_edns_is_answered_in_kind_and_a_later_version_is_told_ours():
    _, response = ask("payments.mesh", use_edns=0, payload=4096, want_dnssec=True)
    assert response.edns == 0 and response.payload == UDP_PAYLOAD and response.ednsflags & dns.flags.DO
    assert ask("payments.mesh")[1].edns == -1
    result, response = ask("payments.mesh", use_edns=1)
    assert result == "refused" and response.rcode() == dns.rcode.BADVERS and response.edns == 0
    option = dns.edns.GenericOption(65001, b"x" * 40)
    assert ask("payments.mesh", use_edns=0, options=[option])[0] == "answered"


def test_transfers_other_classes_and_other_operations_are_refused():
    assert ask("mesh", "AXFR", tcp=True)[1].rcode() == dns.rcode.REFUSED
    assert ask("version.bind", "TXT", rdclass="CH")[1].rcode() == dns.rcode.REFUSED
    assert ask("payments.mesh", "A", rdclass="ANY")[1].rcode() == dns.rcode.REFUSED
    query = dns.message.make_query("payments.mesh", "A")
    query.set_opcode(dns.opcode.NOTIFY)
    reply = answer(query.to_wire(), ZONE, tcp=False)
    assert dns.message.from_wire(reply.wire).rcode() == dns.rcode.NOTIMP


def test_what_is_no_query_gets_no_answer_and_what_is_a_bad_one_a_short_one():
    query = dns.message.make_query("payments.mesh", "A").to_wire()
    response = bytes([query[0], query[1], query[2] | 0x80]) + query[3:]
    for packet in (b"", query[:11], response):
        assert answer(packet, ZONE, tcp=False).wire is None
    looping = query[:12] + b"\xc0\x0c" + query[-4:]
    twice = struct.pack("!HHHHHH", 7, 0, 2, 0, 0, 0) + query[12:] * 2
    with_answers = query[:6] + b"\0\1" + query[8:]
    signed = dns.message.make_query("payments.mesh", "A")
    signed.use_tsig({dns.name.from_text("key."): dns.tsig.Key("key.", b"secret")})
    over_long = query[:12] + b"\x3f" + b"a" * 63 + (b"\x3f" + b"b" * 63) * 4 + b"\0" + query[-4:]
    for packet in (query[:-1], query + b"x", looping, twice, with_answers, over_long):
        reply = answer(packet, ZONE, tcp=False)
        assert reply.result == "malformed" and len(reply.wire) == 12 and reply.wire[3] & 15 == dns.rcode.FORMERR, packet
    assert answer(signed.to_wire(), ZONE, tcp=False).wire is not None


@pytest.mark.parametrize(
    ("more", "room"),
    [({}, PLAIN_UDP), ({"use_edns": 0, "payload": 100}, PLAIN_UDP), ({"use_edns": 0, "payload": 65535}, UDP_PAYLOAD)],
)
def test_an_answer_that_does_not_fit_says_so_and_comes_whole_over_tcp(more, room):
    name = dns.name.from_text("many.mesh")
    addresses = dns.rdataset.from_text("IN", "A", TTL, *(f"248.0.{n >> 8}.{n & 255}" for n in range(200)))
    zone = Zone(ZONE.apexes, {**ZONE.nodes, name: (addresses,)}, ZONE.above)
    _, response = ask("many.mesh", zone=zone, **more)
    assert response.flags & dns.flags.TC and len(response.wire) <= room
    _, response = ask("many.mesh", zone=zone, tcp=True, **more)
    assert not response.flags & dns.flags.TC and len(response.answer[0]) == 200


@given(st.binary(max_size=600), st.booleans())
def test_any_bytes_are_taken_without_an_exception(packet, tcp):
    reply = answer(packet, ZONE, tcp=tcp)
    assert reply.wire is None or len(reply.wire) <= (LARGEST if tcp else UDP_PAYLOAD)


@given(st.data())
def test_a_query_that_was_tampered_with_is_taken_without_an_exception(data):
    kind = data.draw(st.integers(0, 65535))
    query = dns.message.make_query("payments.mesh", kind, use_edns=0, payload=data.draw(st.integers(0, 65535)))
    packet = bytearray(query.to_wire())
    for place in data.draw(st.lists(st.integers(2, len(packet) - 1), max_size=6)):
        packet[place] = data.draw(st.integers(0, 255))
    packet += data.draw(st.binary(max_size=64))
    reply = answer(bytes(packet), ZONE, tcp=False)
    if reply.wire is not None:
        assert reply.wire[:2] == packet[:2] and reply.wire[2] & 0x80 and len(reply.wire) <= UDP_PAYLOAD
        assert len(reply.wire) < len(packet) + 512  # nobody is flooded by way of this


@given(st.lists(st.sampled_from(["payments", "mesh", "api", "x", "248", "in-addr", "arpa", "*", "\\000"]), max_size=6))
def test_a_name_is_answered_only_inside_the_zones(labels):
    name = ".".join((*labels, ""))
    result, response = ask(name or ".", "ANY")
    inside = labels[-1:] == ["mesh"] or labels[-3:] == ["248", "in-addr", "arpa"]
    assert (result != "refused") == inside
    assert all(rrset.name == dns.name.from_text(name) for rrset in response.answer)
