"""Text -> models: every problem of a file at once, with its line, its field and plain words."""

from datetime import UTC, datetime

import pytest

from meshagent.documents.decode import decode_all, decode_documents, decode_one, twice
from meshagent.documents.validate import MAX_FINDINGS
from meshagent.model.intention import Intention
from meshagent.model.kinds import KINDS
from meshagent.model.service import ServiceDefinition

GOOD = """\
kind: intention
name: payments
sources:
- {name: web, action: allow}
- name: reporting
  permissions:
  - {action: allow, http: {methods: [GET], path_prefix: /reports, headers: [{name: x-team, exact: fin}]}}
- {name: batch, action: allow, expires_at: 2027-01-01T00:00:00Z, reason: INC-7}
- {name: "*", action: deny}
---
kind: service
name: payments
protocol: http
"""

_KINDS = "external, gateway, intention, mesh, rollout, route, service"


def problems(text):
    return [str(problem) for problem in decode_documents(text, "a.yaml", KINDS).problems]


def source(text):
    """The problems of one source of an intention, whose text begins in line 4."""
    return problems(f"kind: intention\nname: payments\nsources:\n- {text}\n")


def definition(text):
    return [str(problem) for problem in decode_all(text, "web.yaml", ServiceDefinition).problems]


def test_documents_come_with_the_line_of_each_of_their_parts():
    decoded = decode_documents(GOOD, "a.yaml", KINDS)
    intention, service = decoded.documents
    assert decoded.problems == ()
    assert (intention.file, intention.line, service.line) == ("a.yaml", 1, 11)
    assert [intention.line_of("sources", index) for index in range(4)] == [4, 5, 8, 9]
    assert intention.line_of("sources", 1, "permissions", 0, "http") == 7
    assert intention.document.source("batch").expires_at == datetime(2027, 1, 1, tzinfo=UTC)
    assert intention.document.sources[1].permissions[0].http.headers[0].exact == "fin"


def test_all_problems_of_a_file_come_at_once_in_the_order_of_lines():
    assert problems(
        """\
kind: intention
name: payments
sources:
- {name: web, action: alow}
- name: reporting
  permissions:
  - action: allow
    http: {methods: [get]}
sorces: []
---
kind: Service
---
name: x
---
kind: mesh
defaultAction: allow
access_log: {only: error}
"""
    ) == [
        "a.yaml:4: sources[0].action: must be one of allow, deny, not 'alow' (did you mean allow?)",
        "a.yaml:8: sources[1].permissions[0].http.methods[0]: must be an HTTP method in upper case, such as GET, not 'get'",
        "a.yaml:9: sorces: is not a field of intention (did you mean sources?)",
        f"a.yaml:11: kind: must be one of {_KINDS}, not 'Service' (did you mean service?)",
        f"a.yaml:13: kind: is missing: it is one of {_KINDS}",
        "a.yaml:16: defaultAction: is not a field of mesh (did you mean default_action?)",
        "a.yaml:17: access_log.only: must be one of errors, all, none, not 'error' (did you mean errors?)",
    ]


def test_a_document_with_a_problem_is_not_among_the_documents_and_its_neighbours_are():
    decoded = decode_documents(GOOD + "---\nkind: mesh\nname: mesh\nname: mesh\n", "a.yaml", KINDS)
    assert [located.document.kind for located in decoded.documents] == ["intention", "service"]
    assert [str(problem) for problem in decoded.problems] == ["a.yaml:17: name: is given twice (first in line 16)"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{action: allow}", "sources[0].name: is missing"),
        ("{name: 5, action: allow}", "sources[0].name: must be text, not 5 (write it in quotes)"),
        ("{name: [a], action: allow}", "sources[0].name: must be text, not a list"),
        ("{name: , action: allow}", "sources[0].name: must be text, and is empty"),
        ("{name: web, action: on}", "sources[0].action: must be one of allow, deny, not 'on'"),
        ("web", "sources[0]: must be a mapping of fields, not 'web'"),
        ("{name: web, permissions: yes}", "sources[0].permissions: must be a list, not 'yes'"),
        ("{name: web}", "sources[0]: needs either action or permissions"),
        ("{name: web, permissions: [{action: deny, https: 1, http: {methods: [GET]}}]}",
         "sources[0].permissions[0].https: is not a field of permission (did you mean http?)"),
        ("{name: web, permissions: [{action: deny, tcp: 1, http: {methods: [GET]}}]}",
         "sources[0].permissions[0].tcp: is not a field of permission (its fields: action, http)"),
        (f"{{name: web, action: deny, reason: {'x' * 513}}}", "sources[0].reason: must have at most 512 characters"),
        ("{name: web, permissions: [{action: allow, http: {path_prefix: a}}]}",
         "sources[0].permissions[0].http.path_prefix: must begin with /, not 'a'"),
        ("{name: web, permissions: [{action: allow, http: {path_regex: 'a{99999999999}'}}]}",
         "sources[0].permissions[0].http.path_regex: is not a regular expression: the repetition number is too large"),
        ("{name: web, permissions: [{action: allow, http: {methods: [GET], ignore_case: 'yes'}}]}",
         "sources[0].permissions[0].http.ignore_case: must be true or false, not 'yes'"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_in_plain_words(text, words):
    assert source(text) == [f"a.yaml:4: {words}"]


@pytest.mark.parametrize(
    "time", ["20270101", "'20270101'", "1.5", "2027-01-01", "2027-01-01T00:00:00", "tomorrow", "[]"]
)
def test_a_time_is_written_out_with_its_zone_and_never_taken_for_seconds(time):
    (problem,) = source(f"{{name: web, action: deny, expires_at: {time}}}")
    assert problem.startswith(
        "a.yaml:4: sources[0].expires_at: must be a time with its zone, as in 2027-01-01T00:00:00Z, not "
    )


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("port: '8080'", "port: must be a whole number, not '8080' (without quotes)"),
        ("port: true", "port: must be a whole number, not true"),
        ("port: 80.5", "port: must be a whole number, not 80.5"),
        ("port: 70000", "port: must be at most 65535, not 70000"),
        ("port: 0", "port: must be at least 1, not 0"),
        ("port: 1\nmeta: {version: 1.1}", "meta.version: must be text, not 1.1 (write it in quotes)"),
        ("port: 1\nmeta: {'a b': no}\naddress: 0.0.0.0", "address: must be an address that can be connected to, not '0.0.0.0'"),
        ("port: 1\nprotocol: HTTP", "protocol: must be one of http, http2, grpc, tcp, not 'HTTP' (did you mean http?)"),
        ("port: 1\nchecks: [{ttl: 5}]", "checks[0].ttl: must be a duration such as 500ms, 5s, 2m or 1h, not 5"),
        ("port: 1\nchecks: [{ttl: 99999999999999999h}]",
         "checks[0].ttl: must be a duration of at most 1000000h, not '99999999999999999h'"),
        ("port: 1\nchecks: [{exec: []}]", "checks[0].exec: must not be empty"),
        ("port: 1\nupstreams: [{service: a, local_socket: /s, mode: 0640}]",
         "upstreams[0].mode: must be a whole number, not '0640' (octal is written 0o640)"),
    ],
)  # fmt: skip
def test_a_wrong_setting_of_a_service_is_told_in_plain_words(field, words):
    line = 2 + field.count("\n")
    assert definition(f"name: web\n{field}\n") == [f"web.yaml:{line}: {words}"]


def test_a_problem_of_the_whole_document_begins_with_its_kind_and_name():
    twice_web = "kind: intention\nname: payments\nsources: [{name: web, action: deny}, {name: web, action: allow}]\n"
    assert problems(f"---\n{twice_web}") == ["a.yaml:2: intention payments: names the source web more than once"]
    same = "upstreams: [{service: a, local_port: 1}, {service: b, local_port: 1}]"
    assert definition(f"name: web\nport: 1\n{same}\n") == [
        "web.yaml:1: service definition: has two upstreams with the same local_port"
    ]


def test_long_and_secret_values_are_not_repeated():
    (problem,) = source(f"{{name: {'X' * 100}, action: allow}}")
    assert "X" not in problem
    (problem,) = source("{name: 'https://me:secret@host', action: allow}")
    assert "secret" not in problem


def test_escapes_in_a_document_do_not_reach_the_terminal():
    text = problems('kind: intention\nname: "x\\e[31m"\n"\\e[2J": 1\n')
    assert len(text) == 2
    assert "\x1b" not in "".join(text)


def test_endless_problems_are_counted():
    found = problems("kind: mesh\n" + "".join(f"x{index}: 1\n" for index in range(1000)))
    assert len(found) == MAX_FINDINGS + 1
    assert found[-1] == f"a.yaml: and {1000 - MAX_FINDINGS} more problems"
    assert found[0].endswith(
        "(its fields: kind, name, trust_domain, default_action, access_log, retry_budget, timeouts, tracing)"
    )


@pytest.mark.parametrize("kind", ["5", "[intention]", "{a: 1}", "null"])
def test_a_kind_that_is_no_text_is_refused(kind):
    (problem,) = problems(f"kind: {kind}\nname: x\n")
    assert problem.startswith(f"a.yaml:1: kind: must be one of {_KINDS}, ")


def test_one_document_is_read_and_no_text_is_an_empty_one():
    one = decode_one("name: web\nport: 1\n", "w.yaml", ServiceDefinition)
    assert one.documents[0].document == ServiceDefinition(name="web", port=1)
    assert [str(problem) for problem in decode_one("# none\n", "w.yaml", ServiceDefinition).problems] == [
        "w.yaml: name: is missing",
        "w.yaml: port: is missing",
    ]


def test_a_second_document_where_one_is_expected_is_refused_with_its_line():
    decoded = decode_one("name: web\nport: 1\n---\nname: b\nport: 2\n", "w.yaml", ServiceDefinition)
    assert decoded.documents == ()
    assert [str(problem) for problem in decoded.problems] == [
        "w.yaml:4: a second document begins here, where one is expected"
    ]


def test_several_definitions_may_stand_in_one_file():
    decoded = decode_all("name: a\nport: 1\n---\nname: b\nport: 2\n", "w.yaml", ServiceDefinition)
    assert [located.document.name for located in decoded.documents] == ["a", "b"]


def test_a_kind_and_name_given_twice_names_both_places():
    documents = [
        *decode_documents(GOOD, "a.yaml", KINDS).documents,
        *decode_documents("# again\nkind: intention\nname: payments\n", "b.yaml", KINDS).documents,
    ]
    assert [str(problem) for problem in twice(documents)] == [
        "b.yaml:2: intention payments: is given twice (first in a.yaml:1)"
    ]
    assert all(isinstance(located.document, Intention) for located in (documents[0], documents[2]))
