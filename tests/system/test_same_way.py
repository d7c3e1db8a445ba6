"""One table of requests: the evaluator, a walker over the generated routes, and the real Envoy take the same way.

Hypothesis makes further requests for the same live mesh.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.system.apps import Caller
from tests.system.routed import routed
from tests.unit.translate.route_table import REQUESTS, ROUTE, TABLE
from tests.unit.translate.test_routes import both

pytestmark = pytest.mark.timeout(120)


async def taken(caller, request):
    """The number of the rule that answered, "" for the app itself, or malformed."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers)
    if request.method in ("PUT", "POST", "DELETE"):
        lines += "content-length: 0\r\n"
    try:
        answer = await caller.get(request.path, request.method, lines)
    except Exception:
        caller.close()
        raise
    if answer.headers.get("connection") == "close":
        caller.close()
    if answer.status == 400 or ("grpc-status" in answer.headers and "x-rule" not in answer.headers):
        return "malformed"
    assert ("x-app" in answer.headers) != ("x-rule" in answer.headers)
    return answer.headers.get("x-rule", "")


async def test_the_evaluator_the_generated_routes_and_envoy_take_the_same_way(monkeypatch):
    made = []

    @settings(max_examples=400, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(REQUESTS)
    def collect(request):
        made.append(request)

    collect()
    monkeypatch.setenv("MESHAGENT_HOST_REGION", "eu")
    async with routed() as shop:
        await shop.route(*ROUTE["rules"])
        caller, wrong = Caller(shop.web), []
        for request in [*TABLE, *made]:
            said, generated = both(request)
            real = await taken(caller, request)
            if not said == generated == real:
                wrong.append((request, said, generated, real))
        caller.close()
        assert wrong == []
        assert len(made) >= 350
