"""The alert rules of docs/alerts are what Prometheus takes, and each of them goes off when it should."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.servers.programs import program

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docs/alerts/meshagent.rules.yaml"
HOST = 'instance="vm-1:9102"'
WEB = f'{HOST}, service="web"'
SHOWN = f'{HOST}, certificate="acme/shop.example.org"'
LIMIT = f'{HOST}, source="web", upstream="payments", limit="max_requests"'
EDGE = f'{HOST}, source="web", destination="payments", route="", subset="", side="outbound"'
VERDICT = f'{HOST}, service="payments", rule="payments/web"'
SLOW = (("1", 9), ("5", 9), ("10", 10), ("+Inf", 10))
# By alarm: series that set it off within the hour, and series that do not. A value a minute.
CASES = {
    "MeshagentStoreLost": ([f"meshagent_store_ok{{{HOST}}} 0x20"], [f"meshagent_store_ok{{{HOST}}} 1x20"]),
    "MeshagentStoreSilent": (
        [f"meshagent_store_ok{{{HOST}}} 1x20", f"meshagent_store_heard_at_seconds{{{HOST}}} 60x20"],
        [f"meshagent_store_ok{{{HOST}}} 1x20", f"meshagent_store_heard_at_seconds{{{HOST}}} 0+60x20"],
    ),
    "MeshagentPolicyRejected": (
        [f"meshagent_rejected_resources{{{HOST}}} 1x20"],
        [f"meshagent_rejected_resources{{{HOST}}} 0x20"],
    ),
    "MeshagentPolicyBehind": (
        [f"meshagent_policy_revision{{{HOST}}} 5x20", f"meshagent_policy_revision_applied{{{HOST}}} 4x20"],
        [f"meshagent_policy_revision{{{HOST}}} 5x20", f"meshagent_policy_revision_applied{{{HOST}}} 5x20"],
    ),
    "MeshagentPolicySlow": (
        [
            f'meshagent_policy_apply_seconds_bucket{{{HOST}, le="1"}} 0x20',
            f'meshagent_policy_apply_seconds_bucket{{{HOST}, le="5"}} 0+1x20',
            f'meshagent_policy_apply_seconds_bucket{{{HOST}, le="+Inf"}} 0+1x20',
        ],
        [f'meshagent_policy_apply_seconds_bucket{{{HOST}, le="{le}"}} 0+1x20' for le in (1, 5, "+Inf")],
    ),
    "MeshagentSvidOverdue": ([f"meshagent_svid_overdue{{{WEB}}} 1x20"], [f"meshagent_svid_overdue{{{WEB}}} 0x20"]),
    "MeshagentSvidEnding": (
        [f"meshagent_svid_expires_at_seconds{{{WEB}}} 1300x20"],
        [f"meshagent_svid_expires_at_seconds{{{WEB}}} 3600x20"],
    ),
    "MeshagentSvidUnserved": ([f"meshagent_svid_unserved{{{WEB}}} 1x20"], [f"meshagent_svid_unserved{{{WEB}}} 0x20"]),
    "MeshagentGatewayCertificateOverdue": (
        [f"meshagent_gateway_certificate_overdue{{{SHOWN}}} 1x20"],
        [f"meshagent_gateway_certificate_overdue{{{SHOWN}}} 0x20"],
    ),
    "MeshagentGatewayCertificateEnding": (
        [f"meshagent_gateway_certificate_expires_at_seconds{{{SHOWN}}} 40000x20"],
        [f"meshagent_gateway_certificate_expires_at_seconds{{{SHOWN}}} 90000x20"],
    ),
    "MeshagentRootEnding": (
        [f'meshagent_root_expires_at_seconds{{{HOST}, root="ab"}} 86400x20'],
        [f'meshagent_root_expires_at_seconds{{{HOST}, root="ab"}} 8640000x20'],
    ),
    "MeshagentClocksApart": (
        [f"meshagent_ca_clock_skew_seconds{{{HOST}}} -45x20"],
        [f"meshagent_ca_clock_skew_seconds{{{HOST}}} 5x20"],
    ),
    "MeshagentTrustBundlesDiffer": (
        [f'meshagent_trust_bundle_info{{instance="vm-{n}", digest="d{n}"}} 1x20' for n in (1, 2)],
        [f'meshagent_trust_bundle_info{{instance="vm-{n}", digest="d1"}} 1x20' for n in (1, 2)],
    ),
    "MeshagentLimitNear": (
        [f"meshagent_upstream_limit_left_ratio{{{LIMIT}}} 0.1x20"],
        [f"meshagent_upstream_limit_left_ratio{{{LIMIT}}} 0.5x20"],
    ),
    "MeshagentLimitReached": (
        [f"meshagent_upstream_limit_reached_total{{{LIMIT}}} 0+1x20"],
        [f"meshagent_upstream_limit_reached_total{{{LIMIT}}} 3x20"],
    ),
    "MeshagentEnvoyRestarts": (
        [f"meshagent_envoy_restarts_total{{{HOST}}} 0+1x20"],
        [f"meshagent_envoy_restarts_total{{{HOST}}} 3x20"],
    ),
    "MeshagentHostSilent": ([f'up{{{HOST}, job="meshagent"}} 0x20'], [f'up{{{HOST}, job="meshagent"}} 1x20']),
    "MeshagentErrors": (
        [
            f'meshagent_requests_total{{{EDGE}, response="2xx"}} 0+90x20',
            f'meshagent_requests_total{{{EDGE}, response="5xx"}} 0+5x20',
            f'meshagent_requests_total{{{EDGE}, response="failed"}} 0+5x20',
        ],
        [
            f'meshagent_requests_total{{{EDGE}, response="2xx"}} 0+99x20',
            f'meshagent_requests_total{{{EDGE}, response="5xx"}} 0+1x20',
        ],
    ),
    "MeshagentSlow": (
        [f'meshagent_request_duration_seconds_bucket{{{EDGE}, le="{le}"}} 0+{n}x20' for le, n in SLOW],
        [f'meshagent_request_duration_seconds_bucket{{{EDGE}, le="{le}"}} 0+9x20' for le, _ in SLOW],
    ),
    "MeshagentDenied": (
        [f'meshagent_rule_verdicts_total{{{VERDICT}, verdict="denied"}} 0+1x20'],
        [f'meshagent_rule_verdicts_total{{{VERDICT}, verdict="allowed"}} 0+1x20'],
    ),
    "MeshagentShadowDenied": (
        [f'meshagent_rule_verdicts_total{{{VERDICT}, verdict="shadow_denied"}} 0+1x20'],
        [f'meshagent_rule_verdicts_total{{{VERDICT}, verdict="shadow_denied"}} 7x20'],
    ),
    "MeshagentEdgesLeftOut": (
        [f"meshagent_traffic_edges_left_out{{{HOST}}} 3x80"],
        [f"meshagent_traffic_edges_left_out{{{HOST}}} 0x80"],
    ),
}


def rules() -> list[dict[str, str]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def promtool(*arguments: object) -> str:
    done = subprocess.run([program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules() -> None:
    assert f"{len(CASES)} rules found" in promtool("check", "rules", RULES)


def test_every_rule_has_a_case_and_a_row_in_the_docs_and_asks_for_metrics_that_exist() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    assert [rule["alert"] for rule in rules()] == re.findall(r"^\| (Meshagent\w+) \|", page, re.MULTILINE)
    assert {rule["alert"] for rule in rules()} == CASES.keys()
    asked = {name for rule in rules() for name in re.findall(r"meshagent_\w+", rule["expr"])}
    assert {name.removesuffix("_bucket") for name in asked} <= set(re.findall(r"`(meshagent_\w+)`", page))


@pytest.mark.parametrize("alarm", CASES)
def test_an_alarm_goes_off_when_it_should_and_only_then(alarm: str, tmp_path: Path) -> None:
    tests = []
    for bad, series in zip((True, False), CASES[alarm], strict=True):
        name = "meshagent_alarms"
        expression = f'count(ALERTS{{alertname="{alarm}", alertstate="firing"}}) or vector(0)'
        sample = {"labels": "{}", "value": 1 if bad else 0}
        rows = [dict(zip(("series", "values"), each.rsplit(" ", 1), strict=True)) for each in series]
        asked = [
            {
                "expr": expression,
                "eval_time": "75m" if alarm == "MeshagentEdgesLeftOut" else "15m",
                "exp_samples": [sample],
            }
        ]
        tests.append({"name": name, "interval": "1m", "input_series": rows, "promql_expr_test": asked})
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", file)
