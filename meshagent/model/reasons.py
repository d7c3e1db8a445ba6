"""Why a request or connection failed: one table of codes. Headers, logs, commands and pages say the same ones.

A proxy that refuses or fails a call says the code in `x-mesh-refused`; where it knows less than the log tells, it says the
`family`. What Envoy wrote of a call becomes a code here; its flags and details are those of Envoy 1.40 (docs: access log,
response code details), each seen in a test with the real one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Where = Literal["destination", "caller", "outside", "both"]
FINE, OTHER = "", "failed"  # nothing went wrong; something did, and no line of the table fits
_TLS, _RESET = "TLS_error", "system_library"  # a connection that was reset in the handshake did not fail by TLS
_BY_SIDE: dict[str, frozenset[Where]] = {
    "inbound": frozenset({"both", "destination"}),
    "outbound": frozenset({"both", "caller"}),
    "external": frozenset({"both", "caller", "outside"}),
    "gateway": frozenset({"both", "caller"}),
}
_JUDGES = ("inbound", "external")


@dataclass(frozen=True, slots=True)
class Reason:
    """One way in which a call fails. `where`: whose proxy says it; `outside` is a caller's, of a name outside the mesh.

    `flags`: Envoy's response flags of which one means it. `details`: beginnings of the response code details or of the words
    on how a connection ended. `failure`: what the transport's failure has in it, all words of one of them.
    """

    code: str
    words: str
    next_step: str
    where: Where = "both"
    family: str = ""
    flags: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    failure: tuple[tuple[str, ...], ...] = ()
    statuses: tuple[int, ...] = ()

    @property
    def header(self) -> str:
        """What a caller is told in `x-mesh-refused`."""
        return self.family or self.code


def _tls(code: str, words: str, next_step: str, *one_of: str) -> Reason:
    family = "" if code == "tls" else "tls"
    return Reason(code, words, next_step, "both", family, failure=tuple((_TLS, each) for each in one_of or ("",)))


REASONS: tuple[Reason, ...] = (
    Reason(
        "intention",
        "no intention in force lets the caller make this call",
        "meshagent explain TICKET on the destination's host",
        details=("rbac_access_denied",),
    ),
    Reason(
        "rate-limit",
        "more requests than the rate allows",
        "slow down, or raise rate_limit in the document that `meshagent explain` names",
        flags=("RL", "RLSE"),
        details=("local_rate_limited",),
    ),
    Reason(
        "crowded",
        "more requests at once than adaptive concurrency lets in",
        "more instances of the service, or more in adaptive_concurrency.most",
        "destination",
        details=("reached_concurrency_limit",),
    ),
    Reason(
        "fault",
        "a fault that a route injects",
        "meshagent explain SOURCE DESTINATION names the rule; take fault out of it",
        "caller",
        flags=("FI",),
        details=("fault_filter_abort",),
    ),
    _tls(
        "tls-expired",
        "a certificate of one of the two sides has ended",
        "meshagent doctor on both hosts; compare their clocks",
        "EXPIRED",
        "has_expired",
    ),
    _tls(
        "tls-identity",
        "one of the two sides does not prove to be the service that the other takes it for",
        "look at who stands at the instance's address: meshagent explain SOURCE DESTINATION lists the instances",
        "SAN",
    ),
    _tls(
        "tls-no-certificate",
        "the caller showed no certificate",
        "mTLS is for proxies: an app calls the upstream's port on its own host",
        "PEER_DID_NOT_RETURN_A_CERTIFICATE",
        "CERTIFICATE_REQUIRED",
    ),
    _tls(
        "tls-unknown-root",
        "one side's certificate leads to a root that the other does not trust",
        "meshagent ca status; meshagent doctor on both hosts",
        "CERTIFICATE_VERIFY_FAILED",
        "UNKNOWN_CA",
    ),
    _tls("tls", "mutual TLS with the other side failed", "meshagent doctor on both hosts"),
    Reason(
        "unresolved",
        "the name outside the mesh leads to no address",
        "ask this host's resolver for the hosts of the external document; meshagent doctor",
        "outside",
        flags=("UH",),
    ),
    Reason(
        "no-endpoints",
        "no instance of the service is in service",
        "meshagent explain SOURCE DESTINATION lists the instances; meshagent doctor on their hosts",
        "caller",
        flags=("UH",),
        details=("no_healthy_upstream",),
    ),
    Reason(
        "app-down",
        "the destination's proxy cannot reach its app",
        "look at the app: it does not listen where its service definition says",
        "destination",
        flags=("UF",),
    ),
    Reason(
        "connect",
        "no instance could be reached",
        "meshagent explain SOURCE DESTINATION lists the instances; check the network and the port between the hosts",
        "caller",
        flags=("UF",),
    ),
    Reason(
        "overflow",
        "a limit of the connection pool or of the retries is reached",
        "raise connection_pool of the service document, or add instances",
        "caller",
        flags=("UO",),
    ),
    Reason(
        "timeout",
        "the answer took longer than a timeout allows",
        "meshagent explain SOURCE DESTINATION names the timeout and the line that says it",
        flags=("UT", "DT", "UMSDR"),
        details=("response_timeout", "upstream_per_try_timeout", "max_duration_timeout", "request_overall_timeout"),
    ),
    Reason(
        "idle",
        "nothing moved for longer than the idle timeout allows",
        "meshagent explain SOURCE DESTINATION names the timeout and the line that says it",
        family="timeout",
        flags=("SI",),
        details=("stream_idle_timeout", "idle_timeout"),
    ),
    Reason(
        "no-service",
        "no service here has the name that the caller's proxy asked for",
        "meshagent services on this host; the caller's host may know an instance that is gone: meshagent status there",
        "destination",
        flags=("NR",),
    ),
    Reason(
        "no-route",
        "nothing here leads where the request wants to go",
        "look at the Host and the path of the request",
        flags=("NR", "NC"),
        details=("route_not_found", "cluster_not_found", "filter_chain_not_found"),
    ),
    Reason(
        "app-broke",
        "the app ended the connection before its answer was whole",
        "look at the app's log at that time",
        "destination",
        flags=("UC", "UR", "LR", "UPE"),
    ),
    Reason(
        "broken",
        "the instance ended the connection before the answer was whole, maybe since it does not believe our certificate",
        "on the destination's host: meshagent proxy requests --failed; on this one: meshagent doctor",
        "caller",
        flags=("UC", "UR", "LR", "UPE"),
    ),
    Reason(
        "overloaded",
        "the proxy itself is at its limits",
        "meshagent doctor; envoy.max_connections in agent.yaml",
        flags=("OM",),
        details=("overload", "envoy_overloaded"),
    ),
    Reason("caller-left", "the caller went away before the answer was whole", "look at the caller", flags=("DC", "DR")),
    Reason(
        "malformed",
        "the request is not one that a proxy may pass on",
        "escaped slashes, underscores in header names and broken HTTP are refused: docs/security.md",
        flags=("DPE",),
        statuses=(400, 431),
    ),
    Reason(
        OTHER,
        "the proxy answered with an error",
        "look at the details in the line of the access log",
        statuses=tuple(range(500, 600)),
    ),
)
APP_ERROR = Reason("app-error", "the app itself answered with an error", "look at the app's log at that time")
# What an intention's refusal is when the policy is at hand.
FINER: tuple[Reason, ...] = (
    Reason("no-intention", "no intention names the pair, and the mesh's default is deny", "", family="intention"),
    Reason("denied", "an intention says deny", "", family="intention"),
    Reason("l7-rule", "no permission of the intention allows this method and path", "", family="intention"),
)
FLAG_WORDS: dict[str, str] = {
    "DC": "the caller went away",
    "DF": "the name could not be resolved",
    "DI": "a delay was injected",
    "DO": "dropped, since the other side is overloaded",
    "DPE": "the caller's HTTP is broken",
    "DR": "the caller reset the stream",
    "DT": "the request lasted too long",
    "FI": "a fault was injected",
    "IH": "a header's value is not allowed",
    "LH": "a health check of this proxy failed",
    "LR": "this proxy reset the stream",
    "NC": "the cluster is not there",
    "NFCF": "an extension's configuration is not there",
    "NR": "no route or filter chain fits",
    "OM": "this proxy is overloaded",
    "RFCF": "the rules of a filter are not there",
    "RL": "a rate limit is reached",
    "RLSE": "the rate limit service failed",
    "SI": "nothing moved for too long",
    "UAEX": "an authorization service said no",
    "UC": "the other side ended the connection",
    "UF": "the connection to the other side failed",
    "UH": "no instance is in service",
    "UMSDR": "the stream lasted too long",
    "UO": "a limit of the connection pool is reached",
    "UPE": "the other side's HTTP is broken",
    "UR": "the other side reset the stream",
    "URX": "every try failed",
    "UT": "the answer took too long",
}


_SAID = frozenset(each.header for each in REASONS)
_PASSED_ON = frozenset({"URX", "DI"})  # flags of an answer that came from the other side all the same


def codes() -> tuple[str, ...]:
    """Every code that a call may have, in the order of the table."""
    return tuple(dict.fromkeys(each.code for each in (*REASONS, APP_ERROR, *FINER)))


def reason(code: str) -> Reason:
    """The line of a code; that of `failed` where nobody knows it."""
    known = {each.code: each for each in reversed((*REASONS, APP_ERROR, *FINER))}
    return known.get(code, known[OTHER])


def flags_of(header: str) -> tuple[str, ...]:
    """Envoy's response flags of a caller or a destination that say this in `x-mesh-refused`."""
    found = (flag for each in REASONS if each.header == header for flag in each.flags)
    return tuple(dict.fromkeys(found))


def flag_words(flags: Iterable[str]) -> tuple[str, ...]:
    """Envoy's response flags in words; one that is not known stays as it is."""
    return tuple(FLAG_WORDS.get(flag, flag) for flag in flags)


def reason_of(side: str, status: int, flags: Iterable[str], details: str, failure: str = "", said: str = "") -> str:
    """The code of a logged call, `""` where nothing went wrong.

    `side` is that of the log: inbound, or one of a caller. `status` is 0 for connections. `said`: the code that the answer
    brought along from another proxy, if any: it knows best, but an app does not speak for its proxy.
    """
    where = next((places for name, places in _BY_SIDE.items() if side.startswith(name)), _BY_SIDE["inbound"])
    held = frozenset(flags)
    if status == 0 and "NC" in held and side in _JUDGES:
        return "intention"  # where nobody at all is allowed, connections lead nowhere
    if details == "via_upstream" and status and not held - _PASSED_ON:
        told = said if "caller" in where and said in _SAID else ""
        return told or (APP_ERROR.code if status >= 400 else FINE)
    for each in REASONS:
        if each.where in where and _means(each, status, held, details, failure):
            return each.code
    return OTHER if held - _PASSED_ON else FINE


def _means(each: Reason, status: int, flags: frozenset[str], details: str, failure: str) -> bool:
    if each.failure:
        told = f"{failure} {details}"
        return _RESET not in told and any(all(word in told for word in words) for words in each.failure)
    if not flags.isdisjoint(each.flags) or any(details.startswith(text) for text in each.details):
        return True
    return status in each.statuses and details != "direct_response"
