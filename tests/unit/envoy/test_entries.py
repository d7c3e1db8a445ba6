"""What Envoy tells of live requests becomes the same as the lines of its log."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from envoy.config.core.v3.base_pb2 import RequestMethod
from envoy.data.accesslog.v3.accesslog_pb2 import ResponseFlags
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

from meshagent.envoy.entries import _FLAGS, led_to, seen_in
from meshagent.model.tapping import tap_name

BEGAN = datetime(2026, 11, 21, 18, 30, 5, 123456, tzinfo=UTC)
STAMP = f"{int(BEGAN.timestamp())}123456"


def request(**headers):
    """(a message, the entry in it): one request that was answered 200."""
    message = StreamAccessLogsMessage()
    entry = message.http_logs.log_entry.add()
    common = entry.common_properties
    common.start_time.FromDatetime(BEGAN)
    common.duration.FromMilliseconds(12)
    common.downstream_remote_address.socket_address.address = "10.0.0.5"
    common.downstream_remote_address.socket_address.port_value = 4711
    entry.request.request_method = RequestMethod.POST
    entry.request.path = "/v1/carts?token=secret#part"
    entry.request.authority = "api"
    entry.request.request_headers["authorization"] = "Bearer secret"
    entry.request.request_body_bytes = 3
    entry.response.response_code.value = 200
    entry.response.response_body_bytes = 5
    for name, value in headers.items():
        entry.response.response_headers[name.replace("_", "-")] = value
    return message, entry


def only(message, side, service):
    (seen,) = seen_in(message, tap_name(side, service))
    return seen


def test_an_inbound_request_is_by_who_has_proven_to_be_it():
    message, entry = request()
    proven = entry.common_properties.tls_properties.peer_certificate_properties.subject_alt_name.add()
    proven.uri = "spiffe://mesh.internal/svc/web"
    entry.common_properties.upstream_cluster = "app/api/api"
    judged = entry.common_properties.metadata.filter_metadata["envoy.filters.http.rbac"]
    judged.fields["enforced_effective_policy_id"].string_value = "api/web"
    judged.fields["shadow_engine_result"].string_value = "denied"
    seen = only(message, "inbound", "api")
    assert (seen.side, seen.service, seen.source, seen.destination) == ("inbound", "api", "web", "api")
    assert (seen.method, seen.path, seen.status, seen.duration_ms, seen.rule) == (
        "POST",
        "/v1/carts",
        200,
        12,
        "api/web",
    )
    assert (seen.bytes_received, seen.bytes_sent, seen.remote) == (3, 5, "10.0.0.5:4711")
    assert seen.doubted
    assert seen.time == BEGAN.replace(microsecond=123000) and seen.reason == ""


def test_nothing_that_may_be_secret_is_taken_over():
    message, _ = request()
    assert "secret" not in str(only(message, "inbound", "api").data())


@pytest.mark.parametrize(
    ("cluster", "destination", "subset"),
    [
        ("out/web/api", "api", ""),
        ("out/web/api#v2", "api", "v2"),
        ("out/web/api#v2+failover", "api", "v2"),
        ("plain/web/api", "api", ""),
        ("", "", ""),
    ],
)
def test_an_outbound_request_is_to_where_it_was_led(cluster, destination, subset):
    message, entry = request()
    entry.common_properties.upstream_cluster = cluster
    seen = only(message, "outbound", "web")
    assert (seen.source, seen.destination, seen.subset, seen.side) == ("web", destination, subset, "outbound")


def test_names_outside_and_gateways_are_told_too():
    message, entry = request()
    entry.common_properties.upstream_cluster = "external/pay/pay.example"
    seen = only(message, "external", "web")
    assert (seen.side, seen.source, seen.destination) == ("external", "web", "pay")
    entry.common_properties.upstream_cluster = "out/edge/shop"
    seen = only(message, "gateway", "edge")
    assert (seen.side, seen.service, seen.destination) == ("gateway", "edge", "shop")


def test_a_ticket_of_this_proxy_is_told_from_that_of_another():
    message, entry = request(x_mesh_refused="intention", x_mesh_ticket=f"{STAMP}-7")
    entry.response.response_code.value = 403
    entry.response.response_code_details = "rbac_access_denied_matched_policy[none]"
    seen = only(message, "inbound", "api")
    assert (seen.ticket, seen.far_ticket, seen.reason) == (f"{STAMP}-7", "", "intention")
    message, _ = request(x_mesh_ticket="1700000000000000-7")
    seen = only(message, "outbound", "web")
    assert (seen.ticket, seen.far_ticket) == ("", "1700000000000000-7")


def test_flags_give_the_reason_as_in_the_log():
    message, entry = request()
    entry.response.response_code.value = 503
    entry.common_properties.response_flags.no_healthy_upstream = True
    entry.common_properties.upstream_cluster = "out/web/api"
    seen = only(message, "outbound", "web")
    assert (seen.flags, seen.reason) == (("UH",), "no-endpoints")


def test_every_flag_that_envoy_tells_has_its_name():
    assert set(_FLAGS) == {field.name for field in ResponseFlags.DESCRIPTOR.fields}


def test_a_connection_is_one_without_a_request():
    message = StreamAccessLogsMessage()
    entry = message.tcp_logs.log_entry.add()
    entry.common_properties.start_time.FromDatetime(BEGAN)
    entry.common_properties.upstream_cluster = "out/web/db"
    entry.common_properties.upstream_remote_address.pipe.path = "/run/db.sock"
    entry.common_properties.connection_termination_details = "downstream"
    entry.connection_properties.received_bytes, entry.connection_properties.sent_bytes = 10, 20
    seen = only(message, "outbound", "web")
    assert not seen.http and (seen.destination, seen.instance) == ("db", "/run/db.sock")
    assert (seen.bytes_received, seen.bytes_sent, seen.details) == (10, 20, "downstream")


def test_other_clusters_lead_nowhere_that_has_a_name():
    assert led_to("app/api/api") == led_to("nowhere") == ("", "")
