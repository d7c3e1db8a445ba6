"""What Envoy wrote of a call becomes a code; every line below is one that a real Envoy 1.40 wrote."""

from __future__ import annotations

import pytest

from meshagent.model.reasons import APP_ERROR, FINER, FLAG_WORDS, REASONS, codes, flag_words, reason, reason_of

RESET = "upstream_reset_before_response_started"
TLS = "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED"


@pytest.mark.parametrize(
    ("side", "status", "flags", "details", "code"),
    [
        ("inbound", 403, "", "rbac_access_denied_matched_policy[none]", "intention"),
        ("inbound", 0, "", "rbac_access_denied_matched_policy[none]", "intention"),
        ("external", 403, "", "rbac_access_denied_matched_policy[none]", "intention"),
        ("inbound", 429, "RL", "local_rate_limited", "rate-limit"),
        ("outbound", 429, "RL", "local_rate_limited", "rate-limit"),
        ("inbound", 503, "", "reached_concurrency_limit", "crowded"),
        ("outbound", 500, "FI", "fault_filter_abort", "fault"),
        ("outbound", 503, "UH", "no_healthy_upstream", "no-endpoints"),
        ("external", 503, "UH", "no_healthy_upstream", "unresolved"),
        ("external", 503, "UF", f"{RESET}{{connection_timeout}}", "connect"),
        ("inbound", 503, "UF", f"{RESET}{{remote_connection_failure|delayed_connect_error:_111}}", "app-down"),
        ("outbound", 503, "UF,URX", f"{RESET}{{remote_connection_failure|delayed_connect_error:_111}}", "connect"),
        ("outbound", 503, "UF", f"{RESET}{{connection_timeout}}", "connect"),
        ("outbound", 0, "UF,URX", "", "connect"),
        ("outbound", 503, "UO", f"{RESET}{{overflow}}", "overflow"),
        ("outbound", 504, "UT", "response_timeout", "timeout"),
        ("outbound", 504, "SI", "stream_idle_timeout", "idle"),
        ("gateway", 404, "NR", "route_not_found", "no-route"),
        ("inbound", 0, "NR", "", "no-service"),
        ("inbound", 0, "NC", "", "intention"),
        ("outbound", 0, "NC", "", "no-route"),
        ("inbound", 503, "UC", f"{RESET}{{connection_termination}}", "app-broke"),
        ("outbound", 503, "UC", f"{RESET}{{connection_termination}}", "broken"),
        ("inbound", 0, "DC", "downstream_remote_disconnect", "caller-left"),
        ("inbound", 400, "", "path_normalization_failed", "malformed"),
        ("inbound", 500, "", "via_upstream", "app-error"),
        ("inbound", 404, "", "via_upstream", "app-error"),
        ("inbound", 200, "", "via_upstream", ""),
        ("outbound", 503, "URX", "via_upstream", "app-error"),
        ("outbound", 503, "", "direct_response", ""),
        ("outbound", 0, "", "", ""),
        ("outbound", 200, "DI", "via_upstream", ""),
        ("outbound", 503, "ZZ", "something_new", "failed"),
    ],
)
def test_every_way_to_fail_has_its_code(side, status, flags, details, code):
    assert reason_of(side, status, filter(None, flags.split(",")), details) == code


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (f"{TLS}:verify_cert_failed:_cert_has_expired", "tls-expired"),
        ("TLS_error:|268436501:SSL_routines:OPENSSL_internal:SSLV3_ALERT_CERTIFICATE_EXPIRED", "tls-expired"),
        (f"{TLS}:verify_cert_failed:_verify_SAN_list", "tls-identity"),
        (f"{TLS}:verify_cert_failed:_X509_verify_cert:_certificate_verification_error", "tls-unknown-root"),
        ("TLS_error:|268436528:SSL_routines:OPENSSL_internal:TLSV1_ALERT_UNKNOWN_CA", "tls-unknown-root"),
        ("TLS_error:|268435703:SSL_routines:OPENSSL_internal:WRONG_VERSION_NUMBER", "tls"),
        ("delayed_connect_error:_Connection_refused", "connect"),
        ("TLS_error:|33554536:system_library:OPENSSL_internal:Connection_reset_by_peer:TLS_error_end", "connect"),
    ],
)
def test_a_failure_of_tls_says_which(failure, code):
    assert reason_of("outbound", 503, ["UF"], f"{RESET}{{remote_connection_failure|{failure}}}", failure) == code
    assert reason(code).header in ("tls", "connect")


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (f"{TLS}:verify_cert_failed:_cert_has_expired", "tls-expired"),
        (f"{TLS}:verify_cert_failed:_SAN_matcher,_certificate_SANs_are_[x]", "tls-identity"),
        ("TLS_error:|268435648:SSL_routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE", "tls-no-certificate"),
    ],
)
def test_a_destination_tells_how_a_callers_tls_failed(failure, code):
    assert reason_of("inbound", 0, [], "", failure) == code


def test_what_another_proxy_said_of_its_refusal_counts_before_its_status():
    assert reason_of("outbound", 403, [], "via_upstream", said="intention") == "intention"
    assert reason_of("outbound", 503, ["URX"], "via_upstream", said="app-down") == "app-down"


@pytest.mark.parametrize("said", ["<script>", "no-intention", ""])
def test_an_app_cannot_make_up_a_reason(said):
    assert reason_of("outbound", 503, [], "via_upstream", said=said) == "app-error"


def test_an_app_does_not_speak_for_its_own_proxy():
    assert reason_of("inbound", 503, [], "via_upstream", said="intention") == "app-error"


def test_a_code_says_one_thing_and_what_to_do():
    lines = (*REASONS, APP_ERROR)
    assert len({each.code for each in lines}) == len(lines)
    assert all(each.words and each.next_step for each in lines)
    assert {each.family for each in (*REASONS, *FINER)} <= {"", *codes()}
    assert reason("nobody-knows") == reason("failed")
    assert all(reason(code).code == code for code in codes())


def test_flags_are_said_in_words():
    assert flag_words(["UF", "??"]) == (FLAG_WORDS["UF"], "??")
    known = {flag for each in REASONS for flag in each.flags}
    assert known <= FLAG_WORDS.keys()
