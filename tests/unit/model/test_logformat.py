"""Formats of access logs: what of Envoy's own is taken, and what is refused with words that say why."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from meshagent.model.defaults import AccessLog
from meshagent.model.logformat import check_format, operators

CLASSIC = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    '%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% '
    '%BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" '
    '"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% '
    "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)  # Istio's default


def test_the_format_of_the_wild_is_taken_as_it_is():
    assert AccessLog(only="all", to="file", format=CLASSIC).format == CLASSIC


@pytest.mark.parametrize("text", [*operators(), "no operator at all", "100%%", "%%START_TIME%%"])
def test_each_operator_is_taken(text):
    assert check_format(text) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("%NOPE%", "uses NOPE, which is no operator"),
        ("100% sure", "has a % that begins no operator: '% sure' (write %% for one percent sign)"),
        ("%START_TIME", "begins no operator"),
        ("%%%", "begins no operator"),
        ("%req(:path)%", "begins no operator"),
        ("%REQ%", "needs something in parentheses after REQ"),
        ("%REQ(A?B?C)%", "asks REQ for (A?B?C)"),
        ("%REQ(A\nB)%", "asks REQ for"),
        ("%RESPONSE_CODE(3)%", "gives RESPONSE_CODE more than Envoy takes: write %RESPONSE_CODE%"),
        ("%RESPONSE_CODE:3%", "more than Envoy takes"),
        ("%GRPC_STATUS(LOUD)%", "asks GRPC_STATUS for (LOUD)"),
        ("%START_TIME(%s):3%", "gives START_TIME a length"),
        ("%METADATA(NOWHERE:a)%", "asks METADATA for"),
        ("%FILE_CONTENT(/etc/shadow)%", "reads files of the host"),
        ("%ENVIRONMENT(TOKEN)%", "reads the proxy's environment"),
        ("%SECRET(x)%", "reads keys"),
        ("%CEL(1)%", "cannot be checked here"),
    ],
)
def test_what_envoy_would_refuse_or_nobody_may_read_is_refused(text, words):
    with pytest.raises(ValidationError) as error:
        AccessLog(to="file", format=text)
    assert words in str(error.value)
    with pytest.raises(ValidationError):
        AccessLog(to="otlp", fields={"a": text})


@pytest.mark.parametrize(
    "told",
    [
        {"format": "x"},
        {"fields": {"a": "x"}},
        {"to": "file", "format": "x", "fields": {"a": "x"}},
        {"only": "none", "to": "file"},
        {"to": "/etc/cron.d/x"},
        {"to": "file", "format": ""},
        {"to": "file", "fields": {}},
    ],
)
def test_what_does_not_go_together_is_refused(told):
    with pytest.raises(ValidationError):
        AccessLog(**told)
