from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from meshagent.envoy.bootstrap import _STATS, BootstrapSettings, bootstrap, connections_allowed
from meshagent.envoy.locate import locate
from meshagent.envoy.spawn import arguments

SETTINGS = BootstrapSettings("vm-1", Path("/run/mesh/xds.sock"), Path("/run/mesh/admin.sock"))


def read(settings: BootstrapSettings = SETTINGS) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(bootstrap(settings))
    return config


def test_envoy_itself_finds_nothing_wrong_with_it_or_with_its_command_line(tmp_path: Path) -> None:
    path = tmp_path / "envoy-bootstrap.json"
    path.write_bytes(bootstrap(SETTINGS))
    command = arguments(locate(), path, tmp_path / "envoy.log", 1)
    done = subprocess.run([*command, "--mode", "validate"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()


def test_envoy_would_say_what_is_wrong_as_a_line_that_we_can_read(tmp_path: Path) -> None:
    path = tmp_path / "envoy-bootstrap.json"
    path.write_text('{"nod": "a \\"quoted\\" word"}')
    command = arguments(locate(), path, tmp_path / "envoy.log", 1)
    done = subprocess.run(
        [*command, "--mode", "validate"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={"TZ": "Asia/Tokyo"},
    )
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert "nod" in lines[-1]["message"]
    assert {"time", "level", "logger", "message"} == set(lines[-1])
    said_at = datetime.fromisoformat(lines[-1]["time"])
    assert abs(datetime.now(UTC) - said_at) < timedelta(minutes=5), "its time says of which zone it is"


def test_the_same_settings_give_the_same_bytes_and_others_give_others() -> None:
    assert bootstrap(SETTINGS) == bootstrap(replace(SETTINGS))
    others = [
        replace(SETTINGS, node="vm-2"),
        replace(SETTINGS, xds_socket=Path("/x")),
        replace(SETTINGS, admin_socket=Path("/a")),
        replace(SETTINGS, max_connections=1),
    ]
    assert len({bootstrap(one) for one in [SETTINGS, *others]}) == 5


def test_only_its_own_user_may_use_the_admin_socket_and_can_when_connections_are_at_their_limit() -> None:
    admin = read()["admin"]
    assert admin["address"]["pipe"] == {"path": "/run/mesh/admin.sock", "mode": 0o600}
    assert admin["ignore_global_conn_limit"] is True


def test_nothing_listens_on_the_network_before_the_agent_says_so() -> None:
    assert "socket_address" not in bootstrap(SETTINGS).decode()


def test_it_comes_back_to_an_agent_that_restarted_within_a_second() -> None:
    ads = read()["dynamic_resources"]["ads_config"]
    assert ads["api_type"] == "DELTA_GRPC"
    policy = ads["grpc_services"][0]["envoy_grpc"]["retry_policy"]
    assert policy == {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}}


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("http.in.web.downstream_rq_active", True),
        ("http.in.web.downstream_rq_5xx", True),
        ("http.in.web.downstream_cx_active", True),
        ("http.in.web.downstream_rq_time", True),
        ("listener.0.0.0.0_21000.downstream_cx_active", True),
        ("listener.0.0.0.0_21000.downstream_global_cx_overflow", True),
        ("listener.0.0.0.0_21000.ssl.fail_verify_san", True),
        ("cluster.payments.ssl.fail_verify_error", True),
        ("cluster.payments.upstream_rq_timeout", True),
        ("cluster.payments.upstream_rq_retry", True),
        ("cluster.payments.upstream_cx_connect_fail", True),
        ("cluster.payments.membership_healthy", True),
        ("cluster.payments.outlier_detection.ejections_active", True),
        ("http.in.web.rbac.denied", True),
        ("http.in.web.rbac.policy.web.allowed", True),
        ("tcp.rbac.shadow_denied", True),
        ("web.http_local_rate_limit.rate_limited", True),
        ("server.live", True),
        ("listener_manager.lds.update_rejected", True),
        ("control_plane.connected_state", True),
        ("cluster.payments.lb_zone_routing_all_directly", False),
        ("http.in.web/shop.downstream_rq_2xx", True),
        ("http.in.web.downstream_cx_rx_bytes_total", True),
        ("tcp.out.web.db.downstream_cx_tx_bytes_total", True),
        ("cluster.out/edge/web.upstream_cx_tx_bytes_total", True),
        ("vhost.payments.route.web/payments/rule 0.upstream_rq_2xx", True),
        ("cluster.external/bank/api.bank.example.upstream_rq_active", True),
        ("cluster.out/web/db.external.upstream_rq_2xx", False),
        ("vhost.payments.vcluster.other.upstream_rq_2xx", False),
        ("cluster.app/web/web.upstream_cx_rx_bytes_total", False),
        ("listener.0.0.0.0_21000.http.in.web.downstream_rq_2xx", False),
        ("http.in.web.downstream_cx_length_ms", False),
        ("http.in.web.tracing.random_sampling", False),
        ("listener.0.0.0.0_21000.ssl.ciphers.TLS_AES_128_GCM_SHA256", False),
    ],
)
def test_statistics_that_answer_questions_are_kept_and_no_others(name: str, kept: bool) -> None:
    assert any(re.fullmatch(pattern, name) for pattern in _STATS) is kept


@pytest.mark.parametrize(
    ("wanted", "open_files", "allowed"),
    [
        (50_000, None, 50_000),
        (50_000, 1_048_576, 50_000),
        (50_000, 20_000, 9_750),
        (50_000, 1_024, 384),
        (100, 20_000, 100),
        (50_000, 2, 1),
    ],
)
def test_no_more_connections_are_taken_than_there_are_files_for(
    wanted: int, open_files: int | None, allowed: int
) -> None:
    assert connections_allowed(wanted, open_files) == allowed


def test_what_waits_for_an_agent_that_does_not_read_is_bounded_and_counted() -> None:
    clusters = {each["name"]: each for each in read()["static_resources"]["clusters"]}
    (options,) = clusters["tap"]["typed_extension_protocol_options"].values()
    windows = options["explicit_http_config"]["http2_protocol_options"]
    assert max(*windows.values(), clusters["tap"]["per_connection_buffer_limit_bytes"]) == 256 << 10
    assert len(windows) == 2
    address = clusters["tap"]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
    assert address == {"pipe": {"path": str(SETTINGS.tap_socket)}} and SETTINGS.tap_socket == Path("/run/mesh/tap.sock")
    assert any(re.fullmatch(pattern, "access_logs.grpc_access_log.logs_dropped") for pattern in _STATS)
    assert read()["layered_runtime"]["layers"][-1] == {"name": "admin", "admin_layer": {}}
