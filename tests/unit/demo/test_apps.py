"""What the demo's HTTP service makes of a request."""

from __future__ import annotations

import json

import pytest

from meshagent.demo.apps import Request, answer, caller, main, parse

XFCC = "By=spiffe://mesh.internal/svc/payments;Hash=35a36e;URI=spiffe://mesh.internal/svc/web"


def test_a_request_is_read_with_header_names_in_lower_case():
    assert parse("POST /reports?a=b HTTP/1.1\r\nHost: x:1\r\nX-Team:  fin \r\n\r\n") == Request(
        "POST", "/reports?a=b", {"host": "x:1", "x-team": "fin"}
    )


@pytest.mark.parametrize("head", ["\r\n\r\n", "GET /\r\n\r\n", "GET / HTTP/1.1 more\r\n\r\n"])
def test_what_is_no_request_is_refused(head):
    with pytest.raises(ValueError, match="unpack"):
        parse(head)


@pytest.mark.parametrize(
    ("certificate", "name"),
    [
        (XFCC, "spiffe://mesh.internal/svc/web"),
        ('Hash=1;URI="spiffe://mesh.internal/svc/web"', "spiffe://mesh.internal/svc/web"),
        ("Hash=35a36e", ""),
        ("", ""),
    ],
)
def test_the_caller_is_the_uri_that_the_sidecar_proved(certificate, name):
    assert caller(certificate) == name


def test_the_answer_says_who_serves_what_was_asked_and_who_asks():
    said = answer("payments", Request("GET", "/reports", {"x-forwarded-client-cert": XFCC}))
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n") and f"content-length: {len(body)}".encode() in head
    assert json.loads(body) == {
        "service": "payments",
        "method": "GET",
        "path": "/reports",
        "caller": "spiffe://mesh.internal/svc/web",
        "x-forwarded-client-cert": XFCC,
    }


def test_an_answer_to_head_is_a_head():
    assert answer("payments", Request("HEAD", "/", {})).endswith(b"\r\n\r\n")


@pytest.mark.parametrize("arguments", [[], ["smtp"], ["http", "--nmae", "web"], ["tcp", "--port", "x"]])
def test_a_misspelt_command_line_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and "usage" in capsys.readouterr().err
