"""What may stand in a job file, as Nomad documents it (the job specification, 1.8 to 1.11), for the blocks in use here.

Nomad itself is not a package of any distribution used here, and a parser of HCL lets every name pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.nomad.jobfile import Block

DURATION = re.compile(r"(\d+(\.\d+)?(ms|s|m|h))+")
IDENTITY = re.compile(r"[a-zA-Z0-9_-]{1,128}")
SIGNALS = ("SIGHUP", "SIGINT", "SIGTERM", "SIGQUIT", "SIGUSR1", "SIGUSR2")


@dataclass
class Shape:
    """Attributes with what they must be, blocks with their shapes, and what may not be missing."""

    attributes: dict[str, Any] = field(default_factory=dict)
    blocks: dict[str, Shape] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    labels: int = 0
    once: tuple[str, ...] = ()


def duration(value: Any) -> bool:
    """A Go duration."""
    return isinstance(value, str) and DURATION.fullmatch(value) is not None


def number(value: Any) -> bool:
    """A whole number, or an expression for one."""
    return (isinstance(value, int) and not isinstance(value, bool)) or str(value).startswith("${")


def text(value: Any) -> bool:
    """A text."""
    return isinstance(value, str)


def flag(value: Any) -> bool:
    """true or false."""
    return isinstance(value, bool)


def texts(value: Any) -> bool:
    """A list of texts, or an expression for one."""
    return text(value) or (isinstance(value, list) and all(map(text, value)))


def table(value: Any) -> bool:
    """A map."""
    return isinstance(value, dict)


def among(*words: str):
    """One of these words."""
    return lambda value: value in words


PORT = Shape({"static": number, "to": number, "host_network": text}, labels=1)
NETWORK = Shape(
    {"mode": among("none", "bridge", "host"), "hostname": text},
    {"port": PORT, "dns": Shape({"servers": texts, "searches": texts, "options": texts})},
    once=("dns",),
)
CHECK = Shape(
    {
        "name": text,
        "type": among("http", "tcp", "script", "grpc"),
        "path": text,
        "port": text,
        "interval": duration,
        "timeout": duration,
        "command": text,
        "args": texts,
        "task": text,
        "address_mode": among("host", "driver", "alloc"),
    },
    required=("type", "interval", "timeout"),
)
SERVICE = Shape(
    {
        "name": text,
        "port": text,
        "provider": among("nomad", "consul"),
        "tags": texts,
        "meta": table,
        "address_mode": among("auto", "host", "driver", "alloc"),
        "task": text,
    },
    {"check": CHECK},
)
IDENTITY_SHAPE = Shape(
    {
        "name": lambda value: text(value) and IDENTITY.fullmatch(value) is not None,
        "aud": texts,
        "env": flag,
        "file": flag,
        "filepath": text,
        "ttl": duration,
        "change_mode": among("noop", "restart", "signal"),
        "change_signal": among(*SIGNALS),
    }
)
TEMPLATE = Shape(
    {
        "data": text,
        "source": text,
        "destination": text,
        "perms": lambda value: text(value) and re.fullmatch("0?[0-7]{3}", value) is not None,
        "uid": number,
        "gid": number,
        "change_mode": among("noop", "restart", "signal", "script"),
        "change_signal": among(*SIGNALS),
        "env": flag,
        "once": flag,
        "left_delimiter": text,
        "right_delimiter": text,
        "splay": duration,
        "error_on_missing_key": flag,
    },
    required=("destination",),
)
LIFECYCLE = Shape({"hook": among("prestart", "poststart", "poststop"), "sidecar": flag}, required=("hook",))
# The configuration of the exec and raw_exec drivers.
CONFIG = Shape({"command": text, "args": texts, "work_dir": text}, required=("command",))
TASK = Shape(
    {
        "driver": among("exec", "raw_exec", "docker", "podman", "exec2"),
        "user": text,
        "leader": flag,
        "kill_signal": among(*SIGNALS),
        "kill_timeout": duration,
        "shutdown_delay": duration,
        "meta": table,
        "env": table,
    },
    {
        "config": CONFIG,
        "env": Shape({"*": text}),
        "identity": IDENTITY_SHAPE,
        "template": TEMPLATE,
        "lifecycle": LIFECYCLE,
        "resources": Shape({"cpu": number, "cores": number, "memory": number, "memory_max": number}),
        "restart": Shape({"attempts": number, "interval": duration, "delay": duration, "mode": among("fail", "delay")}),
        "service": SERVICE,
        "logs": Shape({"max_files": number, "max_file_size": number, "disabled": flag}),
        "volume_mount": Shape({"volume": text, "destination": text, "read_only": flag}),
        "constraint": Shape({"attribute": text, "operator": text, "value": text}),
    },
    required=("driver", "config"),
    labels=1,
    once=("config", "lifecycle", "resources", "restart", "logs", "env"),
)
UPDATE = Shape(
    {
        "max_parallel": number,
        "min_healthy_time": duration,
        "healthy_deadline": duration,
        "progress_deadline": duration,
        "auto_revert": flag,
        "auto_promote": flag,
        "canary": number,
        "stagger": duration,
        "health_check": among("checks", "task_states", "manual"),
    }
)
GROUP = Shape(
    {"count": number, "shutdown_delay": duration, "meta": table},
    {
        "network": NETWORK,
        "service": SERVICE,
        "task": TASK,
        "update": UPDATE,
        "restart": TASK.blocks["restart"],
        "constraint": TASK.blocks["constraint"],
        "volume": Shape({"type": among("host", "csi"), "source": text, "read_only": flag}, labels=1),
    },
    required=("task",),
    labels=1,
    once=("network", "update", "restart"),
)
JOB = Shape(
    {
        "type": among("service", "system", "batch", "sysbatch"),
        "datacenters": texts,
        "namespace": text,
        "region": text,
        "priority": number,
        "node_pool": text,
        "meta": table,
    },
    {"group": GROUP, "update": UPDATE, "constraint": TASK.blocks["constraint"]},
    required=("group",),
    labels=1,
)
VARIABLE = Shape({"type": lambda _: True, "default": lambda _: True, "description": text, "sensitive": flag}, labels=1)
FILE = Shape(blocks={"variable": VARIABLE, "job": JOB}, required=("job",), once=("job",))


def faults(block: Block, shape: Shape = FILE, place: str = "") -> Iterator[str]:
    """What is wrong with a block, and where."""
    here = f"{place}{block.kind}{''.join(f' {label}' for label in block.labels)}"
    yield from _counted(block, shape, here)
    for name, value in block.attributes.items():
        fits = shape.attributes.get(name, shape.attributes.get("*"))
        if fits is None:
            yield f"{here}: {name} is no attribute of it"
        elif not fits(value):
            yield f"{here}: {name} cannot be {value!r}"
    for each in block.blocks:
        if each.kind in shape.blocks:
            yield from faults(each, shape.blocks[each.kind], f"{here} > ")
        else:
            yield f"{here}: {each.kind} is no block of it"
    yield from _together(block, here)


def _counted(block: Block, shape: Shape, here: str) -> Iterator[str]:
    """What is missing, or there too often."""
    if len(block.labels) != shape.labels:
        yield f"{here}: {len(block.labels)} labels, {shape.labels} are needed"
    kinds = [each.kind for each in block.blocks]
    for name in shape.required:
        if name not in block.attributes and name not in kinds:
            yield f"{here}: {name} is missing"
    for name in shape.once:
        if kinds.count(name) > 1:
            yield f"{here}: {name} stands there {kinds.count(name)} times"


def _together(block: Block, here: str) -> Iterator[str]:
    """What Nomad refuses of attributes that are right by themselves."""
    have = block.attributes
    if block.kind in ("identity", "template") and (have.get("change_mode") == "signal") != ("change_signal" in have):
        yield f"{here}: change_signal goes with change_mode signal"
    if block.kind == "template" and ("data" in have) == ("source" in have):
        yield f"{here}: either data or source"
    if (
        block.kind == "identity"
        and have.get("name", "default") != "default"
        and not (have.get("aud") and "ttl" in have)
    ):
        yield f"{here}: an identity for others has an audience and a life"
    if block.kind == "identity" and have.get("name", "default") == "default" and "ttl" in have:
        yield f"{here}: the default identity has no ttl"
    if block.kind == "lifecycle" and have.get("hook") == "poststop" and have.get("sidecar"):
        yield f"{here}: a poststop task is no sidecar"
    if block.kind == "group":
        ports = {port.labels[0] for network in block.all("network") for port in network.all("port")}
        for service in (each for each in block.walk() if each.kind == "service"):
            if service.attributes.get("port") not in ports:
                yield f"{here}: service {service.attributes.get('name')} names a port that the network does not have"
        bridge = any(network.attributes.get("mode") == "bridge" for network in block.all("network"))
        if bridge and any(task.attributes.get("driver") == "raw_exec" for task in block.all("task")):
            yield f"{here}: raw_exec has no network of its own"
