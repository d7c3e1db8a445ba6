"""What is answered to one DNS packet: names of this mesh, their reverse, and a refusal of everything else. Pure.

Nothing is looked up elsewhere and nothing is passed on. Sources: RFC 1034 4.3.2 and 2308 (NXDOMAIN, or no data, each
with the SOA), 6303 (SOA and NS of a zone without a name server), 6891 (EDNS), 8020 (an empty name above others exists),
8482 (ANY), 9619 (one question). The names that queries ask for come back in the letters that they had.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.reversename
import dns.rrset

from meshagent.model.virtual import reverse_zones, sharing_an_address, virtual_addresses

Result = Literal["answered", "nodata", "nxdomain", "refused", "malformed"]
TTL = 30  # seconds; an address never changes, but a resolver should not know for long what this host no longer calls
NEGATIVE_TTL = 5  # seconds: a service that comes up is found soon
UDP_PAYLOAD = 1232  # bytes, what https://www.dnsflagday.net/2020/ settled on
PLAIN_UDP = 512  # bytes, without EDNS: RFC 1035 4.2.1
LARGEST = 65535  # bytes, over TCP
_HEADER = struct.Struct("!HHHHHH")
_MOST_ADDITIONAL = 2  # OPT, and a signature that is not looked at
_TRANSFERS = (dns.rdatatype.AXFR, dns.rdatatype.IXFR)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a packet was taken for, and the answer; None: what deserves none."""

    result: Result
    wire: bytes | None


@dataclass(frozen=True, slots=True)
class Zone:
    """Names that are answered for. `above`: names that hold nothing themselves but have names below them."""

    apexes: tuple[dns.name.Name, ...]
    nodes: Mapping[dns.name.Name, tuple[dns.rdataset.Rdataset, ...]]
    above: frozenset[dns.name.Name]

    def apex_of(self, name: dns.name.Name) -> dns.name.Name | None:
        """The zone that the name is in; None: one that is not ours."""
        return next((apex for apex in self.apexes if name.is_subdomain(apex)), None)


def zone_of(origin: str, services: Iterable[str]) -> Zone:
    """The zone `origin` with these services, and the reverse zones of the virtual networks.

    An address that two of them would share is given to neither: a wrong service would be reached.
    """
    names = frozenset(services)
    doubtful = {name for pair in sharing_an_address(names) for name in pair}
    own = dns.name.from_text(origin)
    apexes = (own, *(dns.name.from_text(each) for each in reverse_zones()))
    found: dict[dns.name.Name, tuple[dns.rdataset.Rdataset, ...]] = {apex: _apex(apex) for apex in apexes}
    for service in sorted(names):
        name = dns.name.Name((service.encode(), *own.labels))
        shared = _addresses(names - {service}) if service in doubtful else frozenset()
        given = tuple(str(address) for address in virtual_addresses(service) if str(address) not in shared)
        found[name] = tuple(_rdataset("AAAA" if ":" in text else "A", text) for text in given)
        found |= {dns.reversename.from_address(text): (_rdataset("PTR", name.to_text()),) for text in given}
    return Zone(apexes, found, frozenset(_above(found, apexes)))


def answer(packet: bytes, zone: Zone, *, tcp: bool) -> Reply:
    """The reply to a packet that came over UDP or TCP; never one larger than its sender takes. Any bytes may come."""
    if len(packet) < _HEADER.size:
        return Reply("malformed", None)
    _, flags, *counts = _HEADER.unpack_from(packet)
    if flags & dns.flags.QR:  # an answer to an answer would be a loop
        return Reply("malformed", None)
    if dns.opcode.from_flags(flags) != dns.opcode.QUERY:
        return Reply("refused", _bare(packet, dns.rcode.NOTIMP))
    if counts[:3] != [1, 0, 0] or counts[3] > _MOST_ADDITIONAL:
        return Reply("malformed", _bare(packet, dns.rcode.FORMERR))
    try:
        query = dns.message.from_wire(packet, keyring=False)
        result, response = _respond(query, zone)
        room = LARGEST if tcp else min(max(query.payload, PLAIN_UDP), UDP_PAYLOAD)
        return Reply(result, response.to_wire(max_size=room, prefer_truncation=True))
    except (
        dns.exception.DNSException,
        ValueError,
        struct.error,
    ):  # what the library raises for bytes that are no query
        return Reply("malformed", _bare(packet, dns.rcode.FORMERR))


def _respond(query: dns.message.Message, zone: Zone) -> tuple[Result, dns.message.Message]:
    response = dns.message.make_response(query, our_payload=UDP_PAYLOAD, pad=0)
    response.ednsflags |= query.ednsflags & dns.flags.DO  # RFC 3225 3
    question = query.question[0]
    apex = zone.apex_of(question.name)
    if query.edns > 0:
        response.set_rcode(dns.rcode.BADVERS)
        return "refused", response
    if question.rdclass != dns.rdataclass.IN or question.rdtype in _TRANSFERS or apex is None:
        response.set_rcode(dns.rcode.REFUSED)
        return "refused", response
    response.flags |= dns.flags.AA
    return _look_up(question, apex, zone, response), response


def _look_up(question: dns.rrset.RRset, apex: dns.name.Name, zone: Zone, response: dns.message.Message) -> Result:
    """Fill in the response to a question about a name below `apex`."""
    held = zone.nodes.get(question.name)
    wanted = [each for each in held or () if question.rdtype in (each.rdtype, dns.rdatatype.ANY)]
    response.answer = [dns.rrset.from_rdata_list(question.name, each.ttl, list(each)) for each in wanted]
    if wanted:
        return "answered"
    soa = zone.nodes[apex][0]
    response.authority = [dns.rrset.from_rdata_list(apex, soa.ttl, list(soa))]
    if held is not None or question.name in zone.above:
        return "nodata"
    response.set_rcode(dns.rcode.NXDOMAIN)
    return "nxdomain"


def _bare(packet: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """An answer to what cannot be read: its header with this code, and nothing else."""
    number, flags = struct.unpack_from("!HH", packet)
    kept = flags & (dns.flags.RD | 0x7800)  # the opcode's bits: RFC 1035 4.1.1
    return _HEADER.pack(number, dns.flags.QR | kept | rcode, 0, 0, 0, 0)


def _apex(apex: dns.name.Name) -> tuple[dns.rdataset.Rdataset, ...]:
    name = apex.to_text()
    soa = f"{name} nobody.invalid. 1 3600 1200 604800 {NEGATIVE_TTL}"  # RFC 6303 3
    return (_rdataset("SOA", soa, NEGATIVE_TTL), _rdataset("NS", name))


def _rdataset(kind: str, text: str, ttl: int = TTL) -> dns.rdataset.Rdataset:
    return dns.rdataset.from_text("IN", kind, ttl, text)


def _addresses(services: Iterable[str]) -> frozenset[str]:
    return frozenset(str(address) for service in services for address in virtual_addresses(service))


def _above(names: Iterable[dns.name.Name], apexes: tuple[dns.name.Name, ...]) -> Iterator[dns.name.Name]:
    """The names between each of these and the apex of its zone."""
    for name in names:
        while name not in apexes:
            name = name.parent()  # noqa: PLW2901 - one label after the other
            yield name
