"""Models -> text that is read back as the same models, by our reader and by YAML 1.1 ones."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meshagent.documents.decode import decode_all, decode_documents
from meshagent.documents.encode import plain, to_json, to_yaml
from meshagent.model.external import External, ExternalTls
from meshagent.model.gateway import Gateway
from meshagent.model.intention import HeaderMatch, HttpMatch, Intention, IntentionSource, Permission
from meshagent.model.kinds import KINDS
from meshagent.model.mesh import AccessLog, Mesh
from meshagent.model.rollout import Rollout
from meshagent.model.route import Route
from meshagent.model.service import Check, Service, ServiceDefinition, Upstream

NAMES = st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?\Z")
TRAPS = st.sampled_from(
    ["on", "no", "null", "~", "", "0o17", "0660", "1e5", "1:30", "2027-01-01", "<<", "=", "- a", "a: b", "#"]
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | TRAPS
HEADER_TEXTS = (
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters=","), max_size=30) | TRAPS
).map(str.strip)
PORTS = st.integers(1, 65535)
PATHS = st.from_regex(r"\A(/[a-z0-9]{1,5}){1,3}\Z")
DURATIONS = st.integers(10_000, 10**14).map(lambda microseconds: timedelta(microseconds=microseconds))
ZONES = st.integers(-12, 14).map(lambda hours: timezone(timedelta(hours=hours)))
TIMES = st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC) | ZONES)  # noqa: DTZ001
ACTIONS = st.sampled_from(["allow", "deny"])


def lists(items, **limits):
    return st.lists(items, max_size=3, **limits).map(tuple)


def one_of(**fields):
    """A mapping with one of these fields."""
    return st.one_of(*(st.fixed_dictionaries({name: value}) for name, value in fields.items()))


def both(*parts):
    return st.tuples(*parts).map(lambda found: {key: value for part in found for key, value in part.items()})


HEADERS = both(
    st.fixed_dictionaries({"name": st.sampled_from(["x-team", "accept", "on"]), "invert": st.booleans()}),
    st.just({})
    | one_of(
        exact=HEADER_TEXTS, prefix=HEADER_TEXTS.filter(len), suffix=HEADER_TEXTS.filter(len), present=st.booleans()
    ),
).map(lambda fields: HeaderMatch(**fields))
MATCHES = both(
    st.fixed_dictionaries({"methods": lists(st.sampled_from(["GET", "PUT", "NO"])), "headers": lists(HEADERS)}),
    one_of(path_exact=PATHS, path_prefix=PATHS, path_regex=st.just("/a.*")),
    st.fixed_dictionaries({"ignore_case": st.booleans()}),
).map(lambda fields: HttpMatch(**fields))
PERMISSIONS = st.builds(Permission, action=ACTIONS, http=MATCHES)
SOURCES = both(
    one_of(action=ACTIONS, permissions=lists(PERMISSIONS, min_size=1)),
    st.fixed_dictionaries({"name": NAMES | st.just("*"), "expires_at": st.none() | TIMES, "reason": TEXTS}),
    st.fixed_dictionaries({"shadow": st.booleans()}),
).map(lambda fields: IntentionSource(**fields))
CHECKS = both(
    one_of(
        http=st.just("http://127.0.0.1:8080/health"),
        tcp=st.just("[::1]:80"),
        grpc=st.just("127.0.0.1:9000/payments.Health"),
        exec=lists(TEXTS, min_size=1),
        ttl=DURATIONS,
    ),
    st.just({}) | st.fixed_dictionaries({"interval": DURATIONS, "timeout": DURATIONS}),
).map(lambda fields: Check(**fields))
UPSTREAMS = both(
    one_of(local_port=PORTS, local_socket=st.just("/run/app/payments.sock")),
    st.fixed_dictionaries({"service": NAMES, "mode": st.integers(0, 0o777)}),
).map(lambda fields: Upstream(**fields))
ROUTE_HEADERS = both(
    st.fixed_dictionaries({"name": st.sampled_from(["x-team", "on"]), "invert": st.booleans()}),
    one_of(exact=HEADER_TEXTS, regex=st.just("[0-9]+"), present=st.booleans()),
)
ROUTE_MATCHES = both(
    st.fixed_dictionaries({"methods": lists(st.sampled_from(["GET", "NO"])), "headers": lists(ROUTE_HEADERS)}),
    st.just({}) | one_of(path_exact=PATHS, path_prefix=PATHS, grpc=st.just({"service": "a.B", "method": "C"})),
    st.fixed_dictionaries({"sources": lists(NAMES), "cookies": lists(st.just({"name": "on", "exact": "1e5"}))}),
)
CHANGES = st.fixed_dictionaries({"set": st.dictionaries(st.sampled_from(["x-a", "on"]), HEADER_TEXTS, max_size=2)})
RULES = both(
    st.fixed_dictionaries({"match": ROUTE_MATCHES, "headers": st.fixed_dictionaries({"response": CHANGES})}),
    one_of(
        to=lists(
            st.fixed_dictionaries({"service": st.none() | NAMES, "weight": st.integers(1, 100)}),
            min_size=1,
            unique_by=lambda target: target["service"],
        ),
        redirect=st.fixed_dictionaries({"path": PATHS, "status": st.sampled_from([301, 308])}),
        respond=st.fixed_dictionaries({"status": st.integers(200, 599), "body": TEXTS}),
    ),
    st.just({}) | one_of(fault=st.fixed_dictionaries({"delay": st.fixed_dictionaries({"duration": DURATIONS})})),
)

DOCUMENTS = {
    "mesh": st.builds(
        Mesh,
        trust_domain=st.sampled_from(["mesh.internal", "on", "1e5"]),
        default_action=ACTIONS,
        access_log=st.builds(AccessLog, only=st.sampled_from(["errors", "all", "none"])),
    ),
    "intention": st.builds(
        Intention,
        name=NAMES | st.just("*"),
        sources=lists(SOURCES, unique_by=lambda source: source.part),
    ),
    "service": st.builds(
        Service,
        name=NAMES | TRAPS.filter(str.isalnum).filter(str.islower),
        protocol=st.none() | st.sampled_from(["http", "http2", "grpc", "tcp"]),
        mtls=st.sampled_from(["strict", "permissive"]),
        subsets=st.dictionaries(NAMES, st.dictionaries(TEXTS, TEXTS, min_size=1, max_size=2), max_size=2),
    ),
    "route": st.fixed_dictionaries({"name": NAMES, "rules": lists(RULES)}).map(Route.model_validate),
    "external": st.builds(
        External,
        name=NAMES,
        hosts=st.sampled_from([("a.example",), ("192.0.2.1",), ("2001:db8::1",)]),
        port=PORTS,
        protocol=st.sampled_from(["http", "http2", "tcp"]),
        tls=st.builds(
            ExternalTls,
            mode=st.just("originate"),
            sni=st.none() | st.just("b.example"),
            ca_file=st.none() | st.just("/etc/roots #1: a.pem"),
            subject_alt_names=st.sampled_from([(), ("b.example", "192.0.2.1")]),
        ),
    ),
    "gateway": st.fixed_dictionaries(
        {
            "name": NAMES,
            "listeners": lists(st.fixed_dictionaries({"port": PORTS}), min_size=1, unique_by=lambda each: each["port"]),
            "routes": st.lists(
                st.fixed_dictionaries({"hosts": st.just(("shop.example",)), "path_prefix": PATHS, "service": NAMES}),
                max_size=1,
            ).map(tuple),
        }
    ).map(Gateway.model_validate),
    "rollout": st.builds(
        Rollout,
        name=NAMES,
        base=st.just("v1"),
        to=NAMES.filter(lambda name: name != "v1"),
        steps=st.sets(st.integers(1, 99), max_size=4).map(lambda steps: (*sorted(steps), 100)),
        every=st.integers(1, 10**6).map(lambda seconds: timedelta(seconds=seconds)),
        max_error_rate=st.floats(0, 99),
        max_p99=st.none() | st.integers(1, 10**6).map(lambda milliseconds: timedelta(milliseconds=milliseconds)),
        state=st.sampled_from(["running", "paused", "aborted", "promoted"]),
        id=st.sampled_from(["", "20261121T184011Z", "1e5", "on"]),
    ),
}
DEFINITIONS = st.builds(
    ServiceDefinition,
    name=NAMES,
    id=st.none() | NAMES,
    port=PORTS,
    address=st.sampled_from(["127.0.0.1", "::1", "10.0.0.1"]),
    protocol=st.sampled_from(["http", "tcp"]),
    meta=st.dictionaries(TEXTS, TEXTS, max_size=4),
    checks=lists(CHECKS),
    upstreams=lists(
        UPSTREAMS, unique_by=(lambda each: each.service, lambda each: each.local_port or each.local_socket)
    ),
)


def read_back(text):
    decoded = decode_documents(text, "f", KINDS)
    assert decoded.problems == ()
    return [located.document for located in decoded.documents]


def test_every_kind_is_among_those_tried():
    assert DOCUMENTS.keys() == KINDS.keys()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(*DOCUMENTS.values()), max_size=3))
def test_documents_written_as_yaml_are_read_back_as_they_were(documents):
    assert read_back(to_yaml(documents)) == documents


@settings(max_examples=40, deadline=None)
@given(st.one_of(*DOCUMENTS.values()))
def test_a_document_written_as_json_is_read_back_as_it_was(document):
    assert read_back(to_json(document)) == [document]
    assert read_back(json.dumps(plain(document))) == [document]  # with \u escapes


@settings(max_examples=40, deadline=None)
@given(DEFINITIONS)
def test_a_service_definition_is_read_back_as_it_was(definition):
    for text in (to_yaml([definition]), to_json(definition)):
        decoded = decode_all(text, "f", ServiceDefinition)
        assert [located.document for located in decoded.documents] == [definition], decoded.problems


@settings(max_examples=40, deadline=None)
@given(st.one_of(DEFINITIONS, *DOCUMENTS.values()))
def test_other_yaml_readers_see_the_same_text(document):
    assert yaml.safe_load(to_yaml([document])) == plain(document)


def test_defaults_are_left_out_and_kind_and_name_come_first():
    assert plain(Mesh()) == {"kind": "mesh", "name": "mesh"}
    source = IntentionSource(name="web", action="deny")
    assert to_yaml([Intention(sources=(source,), name="on"), Service(name="a")]) == (
        "kind: intention\nname: 'on'\nsources:\n- name: web\n  action: deny\n---\nkind: service\nname: a\n"
    )
    assert list(plain(ServiceDefinition(port=80, name="web"))) == ["name", "port"]


@pytest.mark.parametrize("text", ["0o17", "1e5", "on", "2027-01-01", "null", "true", "8"])
def test_text_that_looks_like_something_else_is_quoted(text):
    written = to_yaml([ServiceDefinition(name="a", port=1, meta={"x": text})])
    assert f"x: '{text}'\n" in written


def test_a_check_s_usual_times_are_not_written():
    definition = ServiceDefinition(name="a", port=1, checks=(Check(tcp="127.0.0.1:1"),))
    assert plain(definition)["checks"] == [{"tcp": "127.0.0.1:1"}]
