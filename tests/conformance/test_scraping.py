"""The documented scrape configurations are what Prometheus takes, and find the pages of hosts."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import timedelta
from pathlib import Path

import yaml

from meshagent.catalog.base import Offer
from meshagent.catalog.consul_forms import registration_of
from meshagent.model.service import Instance, ServiceDefinition
from tests.servers import prometheus
from tests.servers.programs import program
from tests.system.live import eventually

DOCS = Path(__file__).parents[2] / "docs/prometheus"


def labels_of(host: str, address: str, service: str) -> dict[str, str]:
    """A registration of ours as Prometheus' discovery by Consul shows it: metadata by name, `_` for what no label has."""
    instance = Instance(service=service, host=host, id=service, address=address, port=21000, protocol="http")
    form = registration_of(Offer(instance, ServiceDefinition(name=service, port=80)), timedelta(seconds=10))
    prefix = "__meta_consul_service_metadata_"
    return {f"{prefix}{re.sub('[^a-zA-Z0-9_]', '_', name)}": value for name, value in form["Meta"].items()}


async def test_hosts_are_found_once_by_what_their_services_registered_in_consul(tmp_path: Path) -> None:
    """Debian's Prometheus cannot ask Consul, so it is given the same labels by a file."""
    found = [labels_of("vm-1", "10.0.0.11", "web"), labels_of("vm-1", "10.0.0.11", "api")]
    found += [labels_of("vm-2", "fd00::2", "db"), {"__meta_consul_service_metadata_team": "of somebody else"}]
    targets = [{"targets": [f"10.9.9.9:{number}"], "labels": labels} for number, labels in enumerate(found, 1)]
    (tmp_path / "targets.json").write_text(json.dumps(targets))
    (job,) = yaml.safe_load((DOCS / "consul.yaml").read_text())["scrape_configs"]
    assert [set(each) for each in job.pop("consul_sd_configs")] == [{"server"}]
    config = {"scrape_configs": [job | {"file_sd_configs": [{"files": [str(tmp_path / "targets.json")]}]}]}
    with prometheus.server(config) as watching:
        await eventually(lambda: set(watching.targets()) == {"10.0.0.11:9102", "[fd00::2]:9102"}, 15)
        assert watching.hosts() == {"10.0.0.11:9102": "vm-1", "[fd00::2]:9102": "vm-2"}


def test_prometheus_takes_the_configuration_for_any_store(tmp_path: Path) -> None:
    config = yaml.safe_load((DOCS / "targets.yaml").read_text())
    (tmp_path / "meshagent.rules.yaml").write_text((DOCS.parent / "alerts/meshagent.rules.yaml").read_text())
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    command = [program("promtool"), "check", "config", str(tmp_path / "prometheus.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
