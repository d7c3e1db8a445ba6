"""Rules that look at everything a rule can look at, each with an answer of its own, and requests for them."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st

from meshagent.model.route import Route
from meshagent.model.service import Instance
from meshagent.model.view import Outbound
from meshagent.model.world import Stated
from meshagent.policy.request import Request
from meshagent.policy.ways import with_ways

MATCHES = [
    {"path_exact": "/exact"},
    {"path_exact": "/Other", "ignore_case": True},
    {"path_prefix": "/pre/fix/"},
    {"path_prefix": "/Fold", "ignore_case": True},
    {"path_regex": "/re/[0-9]+"},
    {"grpc": {"service": "shop.v1.Cart", "method": "Add"}},
    {"grpc": {"service": "shop.v1.Cart"}},
    {"methods": ["PUT", "DELETE"]},
    {"path_prefix": "/h", "headers": [{"name": "x-a", "exact": "one"}]},
    {"path_prefix": "/h", "headers": [{"name": "x-a", "prefix": "pre"}, {"name": "x-b"}]},
    {"path_prefix": "/h", "headers": [{"name": "x-a", "suffix": "end", "invert": True}, {"name": "x-a"}]},
    {"path_prefix": "/h", "headers": [{"name": "x-b", "regex": "[a-c]+"}]},
    {"path_prefix": "/h", "headers": [{"name": "x-b", "present": False}]},
    {"path_prefix": "/h", "headers": [{"name": "x-c", "present": False, "invert": True}]},
    {"path_prefix": "/q", "query": [{"name": "v", "exact": "2"}]},
    {"path_prefix": "/q", "query": [{"name": "v", "regex": "[0-9]+"}, {"name": "w"}]},
    {"path_prefix": "/q", "query": [{"name": "v", "present": False}]},
    {"path_prefix": "/c", "cookies": [{"name": "canary", "exact": "on"}]},
    {"path_prefix": "/c", "cookies": [{"name": "canary", "prefix": "be"}]},
    {"path_prefix": "/c", "cookies": [{"name": "user.id", "suffix": "9"}]},
    {"path_prefix": "/c", "cookies": [{"name": "other"}]},
    {"path_prefix": "/c", "cookies": [{"name": "canary", "present": False}]},
    {"sources": ["nobody"]},
    {"regions": ["us"]},
    {"path_prefix": "/mine", "sources": ["web", "orders"], "regions": ["eu"]},
]
ROUTE = {
    "kind": "route",
    "name": "payments",
    "rules": [
        {"match": match, "respond": {"status": 200}, "headers": {"response": {"set": {"x-rule": str(n)}}}}
        for n, match in enumerate(MATCHES)
    ],
}
PATHS = [
    "/exact", "/exact/", "/EXACT", "/other", "/OTHER", "/pre/fix", "/pre/fix/x", "/pre/fixes", "/pre//fix", "/x/../pre/fix",
    "/fold/x", "/FOLD", "/re/12", "/re/1x", "/re/", "/shop.v1.Cart/Add", "/shop.v1.Cart/Get", "/shop.v1.Cart", "/h", "/hx",
    "/q", "/q?v=2", "/q?v=3&v=2", "/q?v=3&w", "/q?w=1", "/q?v=%32", "/q?v", "/q?x=v=2", "/q?", "/c", "/mine", "/else", "/",
    "/%65xact", "/exact?/pre/fix",
]  # fmt: skip
HEADERS = [
    (), (("x-a", "one"),), (("x-a", "two"), ("x-a", "one")), (("x-a", "one, two"),), (("x-a", "prefer"), ("x-b", "")),
    (("x-a", "the end"),), (("x-a", "the end"), ("x-a", "or not")), (("x-b", "abc"),), (("x-b", "abcd"),), (("x-c", "1"),),
    (("x-b", "zz"), ("x-c", "1")), (("content-type", "application/grpc"),), (("content-type", "application/grpc+proto"),),
    (("content-type", "application/grpcx"),), (("cookie", "canary=on"),), (("cookie", "xcanary=on"),),
    (("cookie", "a=1; canary=on; b=2"),), (("cookie", "a=1;canary=beta"),), (("cookie", "canary=once"),),
    (("cookie", "user.id=139"), ), (("cookie", "userxid=9"),), (("cookie", "other="),), (("cookie", "x=canary=on"),),
    (("cookie", "canary=off; canary=on"),), (("cookie", "other"),), (("cookie", "canary=on;x"),),
]  # fmt: skip
TABLE = [
    *(
        Request("GET", path, headers)
        for path in ("/h", "/c", "/shop.v1.Cart/Add", "/shop.v1.Cart/Get")
        for headers in HEADERS
    ),
    *(Request(method, path) for method in ("GET", "PUT", "POST") for path in PATHS),
]
REQUESTS = st.builds(
    Request,
    st.sampled_from(["GET", "PUT", "POST", "DELETE"]),
    st.sampled_from(PATHS)
    | st.lists(st.sampled_from(["/", "h", "q", "c", "?v=2", "&w", "..", "//", "exact", "%2e"])).map(
        lambda parts: "/" + "".join(parts)
    ),
    st.lists(st.sampled_from(HEADERS), max_size=2).map(lambda found: tuple(itertools.chain(*found))),
)


def outbound(route=ROUTE, source="web", region="eu", reach=lambda _: None):
    """payments as web in Europe reaches it."""
    return with_ways(Outbound(source, "payments", "http", ()), Stated(Route.model_validate(route)), region, reach)


def instance(service="payments", number=1, **more):
    """One instance elsewhere."""
    told = {"service": service, "host": f"vm-{number}", "id": service, "address": f"10.0.0.{number}", "port": 21000}
    return Instance.model_validate({"protocol": "http", **told, **more})
