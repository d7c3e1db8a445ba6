"""No CA is asked for a certificate before Envoy can answer it, on a port that is open."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from meshagent.agent.certificates import Certificates
from meshagent.errors import AuthorityUnavailable
from meshagent.model.gateway import Gateway
from meshagent.xds.types import LDS

ACME = {"directory": "https://ca.example/dir", "hosts": ["shop.example.org"], "terms_agreed": True}
LISTENERS = [{"port": 443, "tls": {"acme": ACME}}, {"port": 80}]
EDGE = Gateway.model_validate({"name": "edge", "listeners": LISTENERS})
SHUT = EDGE.model_copy(update={"listeners": EDGE.listeners[:1]})  # its other port is another's on this host
ANSWERS = {"token": "token.thumb"}


@dataclass
class FakeConverger:
    gateways: tuple[Gateway, ...] = (EDGE,)
    world: object = "the world"
    offered: list[dict[str, object]] = field(default_factory=list)

    @property
    def view(self):
        return SimpleNamespace(gateways=self.gateways)

    def offer(self, **what):
        self.offered.append(what)

    def serve(self, world):
        return 7


@dataclass
class FakeEnvoy:
    applied: bool = True
    rejected: dict[str, str] = field(default_factory=dict)

    async def wait_applied(self, generation, timeout):
        assert generation == 7
        return self.applied

    @property
    def streams(self):
        return (SimpleNamespace(types={LDS: SimpleNamespace(rejected=self.rejected)}),)


def certificates(tmp_path, converger, envoy):
    return Certificates(tmp_path / "acme", "/roots.pem", lambda: datetime.now(UTC), converger, envoy)


async def test_the_answers_are_in_force_before_the_ca_is_told_and_are_taken_back(tmp_path):
    converger = FakeConverger()
    made = certificates(tmp_path, converger, FakeEnvoy(rejected={"gateway/edge:443": "taken"}))
    await made._show(ANSWERS)
    await made._show({})
    assert converger.offered == [{"challenges": ANSWERS}, {"challenges": {}}]


@pytest.mark.parametrize(
    ("converger", "envoy", "words"),
    [
        (FakeConverger(world=None), FakeEnvoy(), "Envoy has not taken"),
        (FakeConverger(), FakeEnvoy(applied=False), "Envoy has not taken"),
        (FakeConverger(), FakeEnvoy(rejected={"gateway/edge:80": "taken"}), "no port is open"),
        (FakeConverger((SHUT,)), FakeEnvoy(), "no port is open"),
        (FakeConverger(()), FakeEnvoy(), "no port is open"),
    ],
)
async def test_a_ca_is_not_asked_in_vain(tmp_path, converger, envoy, words):
    with pytest.raises(AuthorityUnavailable, match=words):
        await certificates(tmp_path, converger, envoy)._show(ANSWERS)


async def test_rows_tell_of_what_is_wanted_and_not_there_yet(tmp_path):
    made = certificates(tmp_path, FakeConverger(), FakeEnvoy())
    made.want([EDGE])
    row = {"expires_at": None, "ordered": True, "overdue": False, "failures": 0}
    assert made.rows() == {"acme/shop.example.org": row}
    assert dict(made.problems).keys() == {"acme/shop.example.org"}
    made.want([])
    assert made.rows() == {} and not dict(made.problems)
