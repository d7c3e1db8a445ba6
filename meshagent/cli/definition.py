"""A service's definition from options of `meshagent up`, for those who do not want a file. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshagent.documents.validate import validate
from meshagent.errors import UsageProblem
from meshagent.model.service import ServiceDefinition

_HIGHEST_PORT = 65535


def upstream_of(text: str) -> tuple[str, int]:
    """`payments:9191` as (service, local port). Raises ValueError."""
    from meshagent.model.names import check_service_name

    service, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) <= _HIGHEST_PORT:
        raise ValueError("must be SERVICE:LOCALPORT, such as payments:9191")
    return check_service_name(service), int(port)


def meta_of(text: str) -> tuple[str, str]:
    """`version=7` as (key, value). Raises ValueError."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError("must be KEY=VALUE")
    return key, value


def definition_of(
    name: str, told: Mapping[str, object], upstreams: Sequence[tuple[str, int]], meta: Sequence[tuple[str, str]]
) -> ServiceDefinition:
    """The definition; `told` are further fields, None: not told. Raises UsageProblem with everything that is wrong."""
    data: dict[str, object] = {"name": name, **{key: value for key, value in told.items() if value is not None}}
    if upstreams:
        data["upstreams"] = [{"service": service, "local_port": port} for service, port in upstreams]
    if meta:
        data["meta"] = dict(meta)
    made = validate(ServiceDefinition, data, strict=False)
    if isinstance(made, tuple):
        raise UsageProblem("\n".join(finding.message for finding in made), next_step="meshagent up --help")
    return made
