"""Certificates that live for seconds, another root and another CA, under every kind of call at once: nothing fails."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from contextlib import asynccontextmanager

import pytest

from tests.system.forged import DOMAIN, Forger, Peer
from tests.system.load import Calls, stand
from tests.system.shop import lasting

SECONDS = lasting(600, 45)
pytestmark = [pytest.mark.timeout(lasting(1200, 240))]


async def started(agent, *arguments):
    """`meshagent ca rotate` with that host's configuration, as it runs."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshagent", "ca", "rotate", "--store", agent.mesh.url, "-o", "json"),
        *("--config", str(agent.directory / "agent.yaml"), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def rotate(agent, *arguments, code=0):
    """The same to its end. Gives what it said as data, and its words."""
    process = await started(agent, *arguments)
    out, words = await process.communicate()
    assert process.returncode == code, (out, words)
    return json.loads(out or b"{}"), words.decode()


async def stage(agent):
    """Where the rotation is."""
    return (await rotate(agent, "--status"))[0]["stage"]


async def reach(agent, wanted):
    """Wait until the rotation is there."""
    until = time.monotonic() + 20
    while (found := await stage(agent)) != wanted:
        assert time.monotonic() < until, found


async def admits(agent, forger, service="web"):
    """Whether payments takes a call of that service with a certificate of this root."""
    answer = await Peer(agent.inbound_port, forger.service(service), f"{service}.payments.{DOMAIN}").get()
    return not isinstance(answer, str) and answer.status == 200


@asynccontextmanager
async def hanging(agent):
    """For less time than its lease lives: after that it counts as a host that is down."""
    agent.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        agent.process.send_signal(signal.SIGCONT)


def serials(agent):
    return {service: svid["serial"] for service, svid in agent.status()["svids"].items()}


async def test_certificates_of_thirty_seconds_are_renewed_under_load_and_nothing_fails():
    async with stand("30s") as it, Calls(it.http, it.tcp) as calls:
        before, began = serials(it.agent), time.monotonic()
        await asyncio.sleep(SECONDS)
        assert not calls.failed() and calls.count() > 200 * SECONDS * 0.8
        assert all(calls.count(kind) > SECONDS * 10 for kind in ("http kept", "http new", "tcp kept", "tcp new"))
        renewed = len(it.agent.events("svid_renewed"))
        assert not set(before.values()) & set(serials(it.agent).values())
        services = len(before)
        assert services * SECONDS / 20 * 0.9 - services < renewed < services * SECONDS / 13.5 + 3 * services
        assert time.monotonic() - began < SECONDS + 5
        for agent in (it.agent, it.called):
            assert agent.status()["problems"] == {} and not agent.events("svid_not_served")


async def test_fault_r15_the_root_is_replaced_under_load_and_attack_21_the_old_one_is_refused_once_it_is_retired():
    async with stand("12s") as it, Calls(it.http, it.tcp) as calls:
        ca = it.mesh.directory / "ca"
        old = Forger(it.mesh.directory, ca)
        before, _ = await rotate(it.agent, "--next")
        assert before["stage"] == "distribute" and before["kind"] == "root"
        assert Forger(it.mesh.directory, ca).root == old.root, "nothing signs with the new root yet"
        crashed = await started(it.agent)
        await reach(it.agent, "activate")
        crashed.send_signal(signal.SIGKILL)
        await crashed.communicate()
        new = Forger(it.mesh.directory, ca)
        assert new.root != old.root
        assert await admits(it.agent, old) and await admits(it.agent, new)
        assert not await admits(it.agent, old, "orders") and not await admits(it.agent, new, "orders")
        _, words = await rotate(it.agent)
        assert "its key here is destroyed" in words and await stage(it.agent) == "none"
        assert await admits(it.agent, new) and not await admits(it.agent, new, "orders")
        for _ in range(5):
            assert not await admits(it.agent, old), "attack 21"
        await asyncio.sleep(1.0)
        assert not calls.failed() and calls.count() > 200 * 12
        assert [each.name for each in ca.glob("*.key")] == ["root.key"]
        for agent in (it.agent, it.called):
            assert agent.status()["problems"] == {}
            moved = [event for event in agent.events("svid_renewed") if event["reason"] == "another root signs now"]
            assert 1 <= len(moved) <= len(serials(agent))


async def test_no_root_signs_before_a_host_that_hangs_has_it_and_a_rotation_can_be_turned_back_under_load():
    async with stand("10s") as it, Calls(it.http, it.tcp) as calls:
        ca = it.mesh.directory / "ca"
        old = Forger(it.mesh.directory, ca)
        async with hanging(it.called):
            await rotate(it.agent, "--next")
            waits, _ = await rotate(it.agent, "--next", code=5)
            assert waits["waiting"] == {"vm-2": "has not applied the new trust bundle"} and waits["next"] == ""
            assert Forger(it.mesh.directory, ca).root == old.root
        crashed = await started(it.agent)
        await reach(it.agent, "activate")
        crashed.send_signal(signal.SIGKILL)
        await crashed.communicate()
        new = Forger(it.mesh.directory, ca)
        _, words = await rotate(it.agent, "--abort")
        assert "turned back" in words and await stage(it.agent) == "none"
        assert Forger(it.mesh.directory, ca).root == old.root != new.root
        assert await admits(it.agent, old) and not await admits(it.agent, new)
        assert not calls.failed() and calls.count() > 200 * 8


async def test_a_rotation_that_a_host_holds_up_can_be_turned_back():
    async with stand("1h") as it:
        await rotate(it.agent, "--next")
        async with hanging(it.called):
            back, _ = await rotate(it.agent, "--abort", "--timeout", "5s")
        assert back["stage"] == "none"


async def test_a_rotation_waits_for_everybody_but_those_that_are_named():
    async with stand("1h") as it, hanging(it.called):
        await rotate(it.agent, "--next")
        late, _ = await rotate(it.agent, "--timeout", "1s", code=5)
        assert late["waiting"] == {"vm-2": "has not applied the new trust bundle"}
        after, _ = await rotate(it.agent, "--next", "--force-without", "vm-2")
        assert after["stage"] == "activate" and after["without"] == ["vm-2"]


async def test_another_ca_takes_over_under_load_by_a_rolling_restart_and_the_old_one_is_refused_afterwards():
    async with stand("20s") as it, Calls(it.http, it.tcp) as calls:  # an agent has to be back before they end
        old = Forger(it.mesh.directory, it.mesh.directory / "ca")
        settings = it.mesh.directory / "other.yaml"
        ca = it.mesh.directory / "other"
        settings.write_text(f"ca: {{provider: builtin, path: {ca}, ttl: 20s}}\n")
        going = await started(it.agent, "--to", str(settings))
        await reach(it.agent, "activate")
        waits, _ = await rotate(it.agent, "--status")
        assert set(waits["waiting"]) == {"vm-1", "vm-2"} and waits["kind"] == "provider"
        it.mesh.ca_settings = f"provider: builtin, path: {ca}"
        for agent in (it.called, it.agent):
            agent.process.kill()
            await agent.process.wait()
            await agent.start()
        out, words = await going.communicate()
        assert going.returncode == 0, (out, words)
        new = Forger(it.mesh.directory, ca)
        assert await admits(it.agent, new) and not await admits(it.agent, old)
        await asyncio.sleep(1.0)
        assert not calls.failed() and calls.count() > 200 * 8
        assert await stage(it.agent) == "none"
