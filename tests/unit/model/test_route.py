"""Routes: nonsense is refused, and what is accepted does something."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from meshagent.model.route import Route, RouteRule
from meshagent.model.service import Service

SLOW_RETRY = {"per_try_timeout": "2s"}
REFUSED = {
    "takes one of to, redirect and respond": {"to": [{"subset": "v2"}], "respond": {"status": 200}},
    "redirect is answered here, so timeout and rewrite would do nothing": {
        "redirect": {"path": "/x"}, "timeout": "2s", "rewrite": {"path": "/y"},
    },
    "respond is answered here, so headers.request would do nothing": {
        "respond": {"status": 204}, "headers": {"request": {"set": {"x-a": "1"}}},
    },
    "the weights are all 0": {"to": [{"subset": "v1", "weight": 0}]},
    "names a target twice": {"to": [{"subset": "v1"}, {"subset": "v1"}]},
    "strict: is about several targets": {"to": [{"subset": "v1"}], "strict": True},
    "both change the header x-a": {
        "to": [{"headers": {"request": {"add": {"x-a": "1"}}}}], "headers": {"request": {"remove": ["x-a"]}},
    },
    "rewrite.path_prefix needs match.path_prefix": {"match": {"path_exact": "/a"}, "rewrite": {"path_prefix": "/b"}},
    "redirect.path_prefix needs match.path_prefix": {
        "match": {"grpc": {"service": "a.B"}}, "redirect": {"path_prefix": "/b"},
    },
    "hedge needs retry.per_try_timeout": {"hedge": {}, "retry": {"attempts": 1}},
    "must be shorter than timeout": {"timeout": "2s", "retry": SLOW_RETRY},
    "cors needs OPTIONS": {"match": {"methods": ["GET"]}, "cors": {"allow_origins": [{"exact": "https://a"}]}},
    "nothing would ever be tried again": {"retry": {"on": []}},
    "1ms <= base <= max": {"retry": {"backoff": {"base": "1s", "max": "500ms"}}},
    "needs either status or grpc_status": {"fault": {"abort": {"percent": 1}}},
    "needs delay or abort": {"fault": {}},
    "must be at least 1ms": {"fault": {"delay": {"duration": "0s"}}},
    "greater than 0": {"mirror": [{"service": "shadow", "percent": 0}]},
    "takes one of path, path_prefix and path_regex": {"rewrite": {"path": "/a", "path_prefix": "/b"}},
    "needs path, path_prefix, path_regex or host": {"rewrite": {}},
    "needs scheme, host, port, path": {"redirect": {"status": 301}},
    "longer than 4096 bytes": {"respond": {"status": 200, "body": "\u00e9" * 2049}},
    "needs one of exact, prefix and regex": {"cors": {"allow_origins": [{}]}},
    "cannot be changed: the proxies depend on it": {"headers": {"request": {"set": {"x-forwarded-client-cert": "a"}}}},
    "ignore_case needs path_exact or path_prefix": {"match": {"ignore_case": True, "path_regex": "/a"}},
    "takes one of path_exact, path_prefix, path_regex and grpc": {
        "match": {"path_exact": "/a", "grpc": {"service": "a.B"}},
    },
    "takes one of exact, prefix, suffix, regex and present": {
        "match": {"headers": [{"name": "x-a", "exact": "1", "regex": "2"}]},
    },
    "Extra inputs are not permitted": {"match": {"cookies": [{"name": "a", "regex": ".*"}]}},
    "must not hold a blank, a quote": {"match": {"cookies": [{"name": "a", "exact": "1; b=2"}]}},
    "must be a header name in lower case": {"match": {"headers": [{"name": "X-A"}]}},
    "RE2": {"match": {"path_regex": "/(?=a)"}},
}  # fmt: skip


@pytest.mark.parametrize(("words", "rule"), REFUSED.items())
def test_what_could_not_be_meant_is_refused(words, rule):
    with pytest.raises(ValidationError, match=re.escape(words)):
        RouteRule.model_validate(rule)


def test_a_rule_that_looks_at_requests_or_changes_them_is_for_http_alone():
    for http in (
        {"match": {"methods": ["GET"]}},
        {"match": {"ignore_case": True, "path_prefix": "/a"}},
        {"timeout": "1s"},
        {"to": [{"headers": {"response": {"add": {"x-a": "1"}}}}]},
        {"respond": {"status": 200}},
    ):
        assert RouteRule.model_validate(http).for_http_alone, http
    for either in (
        {},
        {"match": {"methods": []}},
        {"match": {"sources": ["web"]}, "to": [{"subset": "v1"}], "name": "a"},
    ):
        assert not RouteRule.model_validate(either).for_http_alone, either


def test_a_route_says_which_other_services_it_leads_to():
    rules = [
        {"to": [{"service": "b"}, {"subset": "v1"}]},
        {"mirror": [{"service": "c"}, {"service": "a", "subset": "v1"}]},
    ]
    assert Route.model_validate({"name": "a", "rules": rules}).services == {"b", "c"}


def test_an_instance_is_in_the_subsets_whose_values_it_has():
    subsets = {"v1": {"version": "v1"}, "canary": {"version": "v2", "ring": "0"}, "v2": {"version": "v2"}}
    service = Service.model_validate({"name": "a", "subsets": subsets})
    assert service.subsets_of({"version": "v2", "ring": "0", "more": "x"}) == ("canary", "v2")
    assert service.subsets_of({"version": "v1"}) == ("v1",)
    assert service.subsets_of({}) == ()
    with pytest.raises(ValidationError):
        Service.model_validate({"name": "a", "subsets": {"all": {}}})


def test_a_substitution_names_groups_that_its_pattern_has():
    for good in (r"/b/\1", r"\0", r"a\\b"):
        RouteRule.model_validate({"rewrite": {"path_regex": {"pattern": "^/(a)", "substitution": good}}})
    for bad in (r"/b/\2", r"\n", "a\\"):
        with pytest.raises(ValidationError, match="substitution has"):
            RouteRule.model_validate({"rewrite": {"path_regex": {"pattern": "^/(a)", "substitution": bad}}})
