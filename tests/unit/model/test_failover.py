"""What a failover may say, and in which order."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from meshagent.model.service import Service

ZONE, REGION, OTHER = {"zone": "any"}, {"region": "any"}, {"service": "backup"}


def service(*steps):
    return Service.model_validate({"name": "payments", "failover": steps})


def test_zones_then_regions_then_services_in_order():
    found = service({"zone": "eu-1b"}, ZONE, {"region": "us"}, REGION, OTHER, {"service": "last"})
    assert found.backups == ("backup", "last")


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([OTHER, ZONE], "other services come last"),
        ([OTHER, REGION], "other services come last"),
        ([REGION, ZONE], "Write zones, then regions, then services"),
        ([ZONE, {"zone": "eu-1b"}], "any has it already"),
        ([REGION, {"region": "us"}], "any has it already"),
        ([OTHER, OTHER], "says the same twice"),
        ([{"service": "payments"}], "to itself"),
        ([{}], "exactly one of zone, region and service"),
        ([{"zone": "a", "service": "b"}], "exactly one of zone, region and service"),
        ([{"zone": ""}], "at least 1 character"),
        ([{"service": f"b{number}"} for number in range(17)], "at most 16 items"),
    ],
)
def test_a_step_that_could_never_be_taken_is_refused_and_the_reason_is_said(steps, words):
    with pytest.raises(ValidationError, match=words):
        service(*steps)
