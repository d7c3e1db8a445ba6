"""No CA is asked for a certificate before Envoy can answer it, on a port that is open."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from meshagent.agent.certificates import Certificates
from meshagent.errors import AuthorityUnavailable
from meshagent.model.gateway import Gateway
from meshagent.model.mesh import Mesh
from meshagent.model.world import World
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
    svids: dict[str, object] = field(default_factory=dict)

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


class FakeShared:
    """Stands for the other hosts of the gateway. `told`: what became of it, in order."""

    def __init__(self, there=True):
        self.others, self.there, self.told, self.changed, self.problem = {}, there, [], None, ""

    def want(self, gateways, trust_domain, bundle):
        self.wanted = gateways

    async def publish(self, gateways, answers, svids):
        self.told.append((set(gateways), dict(answers)))
        return self.there

    async def withdraw(self, gateways):
        self.told.append(set(gateways))


WORLD = World(1, Mesh())


def certificates(tmp_path, converger, envoy, shared=None):
    made = Certificates(
        tmp_path / "acme", "/roots.pem", lambda: datetime.now(UTC), converger, envoy, shared or FakeShared()
    )
    made.want([EDGE], WORLD)
    converger.offered.clear()
    return made


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


async def test_other_hosts_are_told_before_the_ca_is_and_what_they_are_asked_is_answered_beside_our_own(tmp_path):
    converger, shared = FakeConverger(), FakeShared()
    made = certificates(tmp_path, converger, FakeEnvoy(), shared)
    assert shared.wanted == {"edge"}
    await made._show(ANSWERS)
    assert shared.told == [({"edge"}, {"token": "thumb"})]
    shared.others = {"theirs": "theirs.thumb"}
    shared.changed()
    assert converger.offered[-1] == {"challenges": {**ANSWERS, **shared.others}}
    await made._show({})
    assert shared.told[1:] == [{"edge"}] and converger.offered[-1] == {"challenges": shared.others}


async def test_what_was_not_shared_is_not_taken_back(tmp_path):
    shared = FakeShared(there=False)
    made = certificates(tmp_path, FakeConverger(), FakeEnvoy(), shared)
    await made._show(ANSWERS)
    await made._show({})
    assert len(shared.told) == 1


async def test_rows_tell_of_what_is_wanted_and_not_there_yet(tmp_path):
    made = certificates(tmp_path, FakeConverger(), FakeEnvoy())
    row = {"expires_at": None, "ordered": True, "overdue": False, "failures": 0}
    assert made.rows() == {"acme/shop.example.org": row}
    assert dict(made.problems).keys() == {"acme/shop.example.org"}
    made.want([], WORLD)
    assert made.rows() == {} and not dict(made.problems)
