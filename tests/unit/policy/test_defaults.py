"""Which of several documents counts, and that what nobody says changes nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import ValidationError

from meshagent.model.defaults import Sampling, Timeouts, Tracing
from meshagent.model.mesh import Mesh
from meshagent.model.service import Service
from meshagent.model.traffic import NOTHING_ASKED
from meshagent.policy.defaults import sampling_of, traffic_of

TRACED = {"otlp": "127.0.0.1:4317", "sampling": 5}


def mesh(**fields):
    return Mesh.model_validate(fields)


def service(**fields):
    return Service.model_validate({"name": "payments", **fields})


def test_without_defaults_the_settings_are_those_of_the_service():
    assert traffic_of(Mesh(), None) is NOTHING_ASKED
    asked = service(retry_budget={"percent": 5}, timeouts={"idle": "1s"}, access_log={"only": "all"})
    assert traffic_of(Mesh(), asked) == asked.traffic


def test_a_service_counts_before_the_mesh_field_by_field():
    common = mesh(timeouts={"request": "15s", "idle": "1m", "connect": "1s"}, retry_budget={"percent": 50})
    found = traffic_of(common, service(timeouts={"idle": "0s"}, connection_pool={"max_requests": 7}))
    assert found.timeouts == Timeouts(request=timedelta(seconds=15), idle=timedelta(0))
    assert found.retry_budget == common.retry_budget
    assert (found.connection_pool.max_requests, found.connection_pool.connect_timeout) == (7, timedelta(seconds=1))
    own = traffic_of(common, service(retry_budget={}, connection_pool={"connect_timeout": "2s"}))
    assert own.retry_budget is not None and own.retry_budget.percent == 20  # what is built in, since it says so itself
    assert own.connection_pool.connect_timeout == timedelta(seconds=2)


def test_nothing_is_traced_without_a_collector_whatever_services_say():
    asked = service(tracing={"sampling": 100})
    assert traffic_of(Mesh(), asked).tracing is None
    assert sampling_of(Mesh(), asked, "http") is None


def test_a_service_has_a_sampling_of_its_own_and_none_takes_it_out():
    common = mesh(tracing=TRACED)
    assert traffic_of(common, None).tracing == Sampling(sampling=5)
    assert sampling_of(common, None, "grpc") == 5
    assert sampling_of(common, service(tracing={"sampling": 50}), "http") == 50
    assert sampling_of(common, service(tracing={"sampling": 0}), "http") is None
    assert sampling_of(common, None, "tcp") is None


@pytest.mark.parametrize(
    ("otlp", "place"),
    [
        ("127.0.0.1:4317", ("127.0.0.1", 4317)),
        ("[::1]:1", ("::1", 1)),
        ("otel.example.org:4317", ("otel.example.org", 4317)),
    ],
)
def test_a_collector_is_a_host_and_a_port(otlp, place):
    assert Tracing(otlp=otlp).collector == place


@pytest.mark.parametrize("otlp", ["127.0.0.1", "http://127.0.0.1:4317", "a:0", "a:65536", ":4317", "-a:1", "a b:1"])
def test_anything_else_is_no_collector(otlp):
    with pytest.raises(ValidationError):
        Tracing(otlp=otlp)
