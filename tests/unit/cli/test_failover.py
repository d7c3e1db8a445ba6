"""Failovers as commands check, plan and explain them."""

from __future__ import annotations

import pytest

SERVICE = "kind: service\nname: {name}\nprotocol: {protocol}\nfailover: [{steps}]\n"


def service(path, name, *steps, protocol="http"):
    path.write_text(SERVICE.format(name=name, steps=", ".join(steps), protocol=protocol))
    return str(path)


@pytest.fixture
def placed(mesh, tmp_path):
    """web in eu-1a; payments there, in eu-1b and in us; backup; a failover over all of them."""
    mesh.register("web", region="eu", zone="eu-1a")
    for number, (region, zone) in enumerate((("eu", "eu-1a"), ("eu", "eu-1b"), ("us", "us-1a")), 1):
        mesh.register("payments", host=f"vm-{number}", address=f"10.0.0.{number}", region=region, zone=zone)
    mesh.register("backup", host="vm-4", address="10.0.0.4")
    steps = ("{zone: any}", "{region: any}", "{service: backup}")
    mesh.run("policy", "apply", "-f", service(tmp_path / "s.yaml", "payments", *steps))
    mesh.run("intention", "allow", "web", "payments")
    return mesh


def fail(mesh, *numbers):
    places = {1: ("eu", "eu-1a"), 2: ("eu", "eu-1b"), 3: ("us", "us-1a")}
    for number in numbers:
        region, zone = places[number]
        place = {"region": region, "zone": zone, "address": f"10.0.0.{number}"}
        mesh.register("payments", host=f"vm-{number}", health="failing", **place)


def called(shown):
    return [each["host"] for each in shown["instances"] if each["called"]]


def test_explain_says_which_tier_is_called_and_what_stands_before_it(placed):
    shown = placed.json("explain", "web", "payments")
    assert called(shown) == ["vm-1"] and shown["failover"][0]["tier"] == 0
    fail(placed, 1)
    said = placed.run("explain", "web", "payments").stdout
    assert "instances in region eu (tier 2 of 3); none in service in zone eu-1a of region eu" in said
    assert called(placed.json("explain", "web", "payments", "--region", "us", "--zone", "us-1a")) == ["vm-3"]


def test_explain_judges_by_the_service_that_takes_anothers_place(placed):
    fail(placed, 1, 2, 3)
    shown = placed.json("explain", "web", "payments", code=5)
    assert (shown["judge"], called(shown), shown["failover"][0]["instead_of"]) == ("backup", ["vm-4"], ["payments"])
    placed.run("intention", "allow", "web", "backup")
    said = placed.run("explain", "web", "payments", "GET", "/").stdout
    assert "failover backup: no instance of payments is in service" in said and "judged   by backup" in said


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (("{service: backup}", "{zone: any}"), "other services come last"),
        (("{service: payments}",), "from payments to itself"),
        (("{service: db}",), "failover[0].service: fails over to db, which speaks tcp, while payments is http"),
    ],
)
def test_a_failover_that_cannot_be_carried_out_is_refused(mesh, tmp_path, steps, words):
    file = service(tmp_path / "s.yaml", "payments", *steps)
    assert words in mesh.run("policy", "apply", "-f", file, code=3).stderr


def test_a_circle_of_failovers_is_refused_also_when_it_closes_in_another_document(mesh, tmp_path):
    mesh.run("policy", "apply", "-f", service(tmp_path / "a.yaml", "a", "{service: b}"))
    mesh.run("policy", "apply", "-f", service(tmp_path / "b.yaml", "b", "{service: c}"))
    said = mesh.run("policy", "apply", "-f", service(tmp_path / "c.yaml", "c", "{service: a}"), code=3).stderr
    assert "c.yaml:4: failover[0].service: fails over in a circle: c -> a -> b -> c" in said


def test_an_unknown_service_is_told_and_plan_says_the_new_setting(mesh, tmp_path):
    file = service(tmp_path / "s.yaml", "payments", "{service: paymets}")
    assert "no service paymets is registered yet" in mesh.run("policy", "apply", "-f", file, "--check", code=5).stderr
    assert "service payments: failover (default) -> " in mesh.run("policy", "plan", "-f", file).stdout


def test_lint_knows_places_without_instances_and_callers_that_would_be_refused(placed, tmp_path):
    steps = ("{zone: eu-1c}", "{region: us}", "{service: backup}")
    file = service(tmp_path / "other.yaml", "payments", *steps)
    rows = placed.json("policy", "lint", "-f", file, code=5)
    assert [(row["code"], row["field"]) for row in rows] == [("L014", "failover[0]"), ("L015", "failover[2].service")]
    assert "web may call payments and not backup" in rows[1]["message"]
    placed.run("intention", "allow", "web", "backup")
    assert [row["code"] for row in placed.json("policy", "lint", "-f", file, code=5)] == ["L014"]
