"""The apps of a scratch mesh say who they are in each protocol. HTTP/2 is held against a library that knows it."""

from __future__ import annotations

import asyncio

import h2.config
import h2.connection
import h2.events
import pytest

from meshagent.demo import answering


class Written:
    """A writer that keeps what is written."""

    def __init__(self):
        self.data, self.closed = b"", False

    def write(self, data):
        self.data += data

    async def drain(self):
        await asyncio.sleep(0)

    def close(self):
        self.closed = True


async def said(serve, *args, sent):
    """What an app writes until its caller has nothing more to say."""
    reader, writer = asyncio.StreamReader(), Written()
    reader.feed_data(sent)
    reader.feed_eof()
    await serve("payments/a", *args, reader, writer)
    assert writer.closed
    return writer.data


async def test_over_http_each_request_is_answered_and_its_body_passed_over():
    sent = (
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
        b"POST /x HTTP/1.1\r\ncontent-length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n"
        b"POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    )
    answer = b"HTTP/1.1 200 OK\r\nx-case-app: payments/a\r\ncontent-length: 0\r\n\r\n"
    assert await said(answering._serve_http, sent=sent) == answer * 3


async def test_over_tcp_a_line_says_who_it_is_and_nothing_comes_before_the_caller_spoke():
    assert await said(answering._serve_lines, sent=b"who?\n") == b"payments/a\n"
    assert await said(answering._serve_lines, sent=b"") == b""


@pytest.mark.parametrize("grpc", [False, True])
async def test_over_http2_all_streams_are_answered_with_bodies_long_headers_and_pings_between(grpc):
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    client.initiate_connection()
    head = [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", "a")]
    client.send_headers(1, head, end_stream=True)
    client.ping(b"12345678")
    client.send_headers(3, [*head, ("x-long", "a" * 40_000)], end_stream=True)  # in several frames
    client.send_headers(5, head)
    client.send_data(5, b"body", end_stream=True)
    client.send_headers(7, head)
    client.send_data(7, b"body")
    client.send_headers(7, [("trailer", "1")], end_stream=True)
    events = client.receive_data(await said(answering._serve_http2, grpc, sent=client.data_to_send()))
    answered = [dict(each.headers) for each in events if isinstance(each, h2.events.ResponseReceived)]
    ended = [each.stream_id for each in events if isinstance(each, h2.events.StreamEnded)]
    trailers = [dict(each.headers) for each in events if isinstance(each, h2.events.TrailersReceived)]
    content = {"content-type": "application/grpc"} if grpc else {}
    assert answered == [{":status": "200", "x-case-app": "payments/a"} | content] * 4
    assert sorted(ended) == [1, 3, 5, 7]
    assert trailers == ([{"grpc-status": "0"}] * 4 if grpc else [])
    assert any(isinstance(each, h2.events.PingAckReceived) for each in events)
