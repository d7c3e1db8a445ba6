"""Whether an intention can be enforced as it is written, and whether it says what it seems to say. Pure."""

from __future__ import annotations

from collections.abc import Collection

from meshagent.cli.lazy import did_you_mean
from meshagent.model.intention import HttpMatch, IntentionSource, Permission
from meshagent.model.mesh import Mesh
from meshagent.model.names import ANY, HTTP_PROTOCOLS, Protocol


def l7_problem(destination: str, source: IntentionSource, protocols: Collection[Protocol]) -> str:
    """Why a source's permissions cannot be judged by a service that speaks these protocols; empty when they can."""
    if not source.permissions or all(protocol in HTTP_PROTOCOLS for protocol in protocols):
        return ""
    return (
        f"has permissions on requests, but {destination} is a tcp service, whose proxy sees none and denies all. "
        f"Say `protocol: http` where {destination} is registered or in its service document, or give an action"
    )


def case_gap(permissions: tuple[Permission, ...]) -> str:
    """A denied path that another spelling gets past, in words; empty when there is none.

    Paths are compared letter by letter, while many applications are not so strict. Attack test 2: behind `deny /admin`,
    `allow /` lets /ADMIN through.
    """
    for index, denied in enumerate(permissions):
        if denied.action == "deny" and not denied.http.ignore_case and _path(denied.http):
            for allowed in permissions[index + 1 :]:
                if allowed.action == "allow" and _lets_variant_through(allowed.http, denied.http):
                    return _gap_words(denied.http, allowed.http)
    return ""


def open_by_default(mesh: Mesh) -> str:
    """A warning about a mesh that is open by default."""
    if mesh.default_action == "deny":
        return ""
    watched = ", and counts it" if mesh.default_action == "shadow-deny" else ""
    return f"{mesh.default_action} lets every call through that no intention names{watched}"


def unknown_service(name: str, known: Collection[str]) -> str:
    """A warning about a name that nobody has registered; empty when it is known."""
    if name == ANY or name in known:
        return ""
    return f"no service {name} is registered yet.{did_you_mean(name, known)}"


def _lets_variant_through(allowed: HttpMatch, denied: HttpMatch) -> bool:
    if allowed.methods and denied.methods and not set(allowed.methods) & set(denied.methods):
        return False
    if allowed.path_prefix is None:
        return allowed.path_exact is None
    if denied.path_regex is not None:
        return True
    path = (denied.path_exact or denied.path_prefix or "").lower()
    prefix = allowed.path_prefix.lower().rstrip("/")
    behind = path.removeprefix(prefix) if path.startswith(prefix + "/") else ""
    return any(each.isalpha() for each in behind)


def _gap_words(denied: HttpMatch, allowed: HttpMatch) -> str:
    below = _path(allowed) or "any path"
    return (
        f"denies {_path(denied)} in exactly this spelling; in other letter case the permission on {below} behind it "
        "allows it. Add ignore_case: true (--ignore-case), or better allow only the paths that are meant"
    )


def _path(http: HttpMatch) -> str:
    return http.path_exact or http.path_prefix or http.path_regex or ""
