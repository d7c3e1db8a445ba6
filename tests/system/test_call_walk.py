"""`meshagent doctor SOURCE DESTINATION`: for each way in which a call fails it says where, and what is wrong there."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest
import pytest_asyncio
from click.testing import CliRunner

from meshagent.cli.main import cli
from meshagent.model.service import Instance
from meshagent.state.catalog import put_instance
from tests.system import test_reasons
from tests.system.apps import get
from tests.system.live import KEYS, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")
shop = test_reasons.shop  # web calls everything there, and most of it fails


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def street(shop):
    """The shop, and beside it a caller with three more upstreams: nobody at home, ejected, and checked in vain."""
    mesh, agent = shop.mesh, shop.agent
    local = {name: free_port() for name in ("gone", "sick", "checked", "payments")}
    upstreams = [{"service": name, "local_port": port} for name, port in local.items()]
    await agent.up(name="mobile", port=free_port(), protocol="http", upstreams=upstreams)
    await agent.up(name="checked", port=shop.payments.port, protocol="http", checks=[{"exec": ["false"]}])
    lease = await mesh.store.lease(timedelta(minutes=5))
    port = shop.agent.call("GET", "/v1/services")["services"][0]["mtls_port"]
    for name, at in (("gone", free_port()), ("sick", port)):
        instance = Instance(service=name, host="vm-9", id=name, address="127.0.0.1", port=at, protocol="http")
        await mesh.store.commit([put_instance(KEYS, instance, lease.id)])
    ejected = {"consecutive_5xx": 1, "base_ejection_time": "5m", "max_ejection_percent": 100}
    names = ("gone", "sick", "checked")
    allowed = [{"name": "mobile", "action": "allow"}]
    documents = [{"kind": "intention", "name": name, "sources": allowed} for name in names]
    documents.append({"kind": "service", "name": "sick", "protocol": "http", "outlier_detection": ejected})
    documents.append({"kind": "service", "name": "gone", "protocol": "http"})
    await mesh.applied(await mesh.apply(*documents))
    shop.local |= {f"mobile {name}": port for name, port in local.items()}
    return shop


async def walk(shop, *words, code=1, api=""):
    """(where it breaks, the findings) of `meshagent doctor`."""
    options = ["--store", f"sqlite://{shop.mesh.store_path}", "--api", api or shop.agent.api, "--output", "json"]
    said = await asyncio.to_thread(CliRunner().invoke, cli, ["doctor", *words, *options], catch_exceptions=False)
    assert said.exit_code == code, said.output
    told = json.loads(said.stdout)
    return told["breaks_at"], told["findings"]


WAYS = (  # the call; where it breaks; what is said there
    (("web", "payments", "GET", "/secret"), "intention", "permission 0 of intention payments/web says deny"),
    (("web", "ledger"), "intention", "no intention names web -> ledger"),
    (("cron", "payments"), "upstream", "cron does not declare that it calls payments"),
    (("nobody", "payments"), "source", "nobody runs on no host"),
    (("web", "down"), "app", "cannot be reached"),
    (("web", "ghosts"), "instances", "ghosts runs nowhere"),
    (("web", "fake"), "tls", "tls-identity"),
    (("web", "stale"), "tls", "tls-expired"),
    (("web", "alien"), "tls", "tls-unknown-root"),
    (("web", "plain"), "tls", "may speak no TLS"),
    (("mobile", "gone"), "network", "refused"),
    (("mobile", "checked"), "instances", "failing"),
)


@pytest.mark.parametrize(("call", "place", "words"), WAYS)
async def test_it_says_where_the_call_breaks(street, call, place, words):
    broken, findings = await walk(street, *call)
    assert broken == place, findings
    first = next(each for each in findings if each["state"] == "bad")
    assert words in first["what"] and first["next_step"], first


async def test_a_call_that_works_is_followed_to_its_app(street):
    broken, findings = await walk(street, "web", "payments", "GET", "/", code=0)
    assert broken is None
    told = [each["about"] for each in findings if each["state"] == "ok"]
    assert told[:2] == ["identity", "listener"] and {"intention", "instances", "tls", "app"} <= set(told), findings


async def test_an_ejected_instance_is_named(street):
    for _ in range(5):
        await get(street.local["mobile sick"], "/")

    async def ejected():
        _, findings = await walk(street, "mobile", "sick")
        return any("ejected" in each["what"] for each in findings)

    for _ in range(20):
        if await ejected():
            return
        await asyncio.sleep(0.25)
    raise AssertionError(await walk(street, "mobile", "sick"))


@pytest.mark.parametrize(
    ("path", "code"), [("/fault", "fault"), ("/slow", "timeout"), ("/few", "rate-limit"), ("/own", None)]
)
async def test_what_only_requests_show_is_told_from_the_last_of_them(street, path, code):
    for _ in range(3):
        await get(street.local["payments"], path)
    for _ in range(20):  # until the log has it
        await asyncio.sleep(0.1)
        _, findings = await walk(street, "web", "payments", "GET", path, code=0)
        calls = [each for each in findings if each["about"] == "calls" and f"failed with {code}:" in each["what"]]
        if calls or code is None:
            break
    assert bool(calls) == (code is not None)
    assert ("fault" in {each["about"] for each in findings}) == (path == "/fault")
    if path == "/own":
        assert any("answered 503" in each["what"] for each in findings if each["about"] == "route")


async def test_an_agent_that_is_not_there_is_where_it_ends(street):
    broken, _ = await walk(street, "web", "payments", api=f"unix://{street.mesh.directory}/none.sock")
    assert broken == "agent"
