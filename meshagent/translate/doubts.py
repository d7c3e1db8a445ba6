"""What shadow would refuse, in the access log: one line for each such request that passed.

The RBAC filter judges by both and says what came of it in the request's metadata; the log looks there. It always does, also
where nothing is in shadow and nothing ever stands there: Envoy ends the streams of a chain whose log is another one (measured:
after 1 s), and a shadow that comes or goes must not touch a call (ADR 0026). How many of these lines are written can be
turned down by a runtime key.
"""

from __future__ import annotations

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLogFilter

from meshagent.model.observed import LOGGED_PERCENT

_RBAC = "envoy.filters.http.rbac"
_SHADOW, _ENFORCED = "shadow_engine_result", "enforced_engine_result"
DOUBTED = {"shadow": f"%DYNAMIC_METADATA({_RBAC}:{_SHADOW})%"}
"""The field of a line: `denied` where shadow would refuse the request."""


def doubted_requests() -> AccessLogFilter:
    """Requests that were let in and that shadow would have refused."""
    wanted = AccessLogFilter()
    both = wanted.and_filter.filters
    for key, value in ((_SHADOW, "denied"), (_ENFORCED, "allowed")):
        asked = both.add().metadata_filter
        asked.matcher.filter = _RBAC
        asked.matcher.path.add().key = key
        asked.matcher.value.string_match.exact = value
        asked.match_if_key_not_found.value = False
    share = both.add().runtime_filter
    share.runtime_key = LOGGED_PERCENT
    share.percent_sampled.numerator = 100
    share.use_independent_randomness = True
    return wanted
