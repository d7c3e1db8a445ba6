"""A guard -> Envoy's RBAC filter, sent by ECDS: the next request on an open connection obeys (0.5 ms, nothing drained).

Everything is an ALLOW list: what no policy names is refused. First match is kept by negating the earlier deny permissions.
"""

from __future__ import annotations

from collections.abc import Callable

from envoy.config.core.v3.config_source_pb2 import ExtensionConfigSource
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.rbac.v3.rbac_pb2 import RBAC as Rules
from envoy.config.rbac.v3.rbac_pb2 import Permission as RbacPermission
from envoy.config.rbac.v3.rbac_pb2 import Policy, Principal
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as HttpRbac
from envoy.extensions.filters.network.rbac.v3.rbac_pb2 import RBAC as NetworkRbac
from envoy.extensions.rbac.principals.mtls_authenticated.v3.mtls_authenticated_pb2 import Config as MtlsAuthenticated
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import SubjectAltNameMatcher

from meshagent.model.identity import Domains
from meshagent.model.intention import Permission
from meshagent.model.names import ANY, HTTP_PROTOCOLS
from meshagent.model.view import Guard, Inbound, Rule
from meshagent.translate.counting import rules_prefix
from meshagent.translate.matchers import request_permission
from meshagent.translate.settings import by_ecds, pack


def rbac_name(service: str) -> str:
    """The ECDS name of a service's RBAC filter on the mTLS port."""
    return f"rbac/{service}"


def plain_rbac_name(service: str) -> str:
    """The ECDS name of a service's RBAC filter on its plain-text port."""
    return f"rbac-plain/{service}"


def bytes_rbac_name(service: str) -> str:
    """The ECDS name of the RBAC filter for connections of an HTTP service that are taken as bytes."""
    return f"rbac-l4/{service}"


def bytes_rbac_filter(inbound: Inbound, domains: Domains) -> TypedExtensionConfig:
    """Only who may make any call at all. Where permissions decide by request, no request is seen here."""
    config = TypedExtensionConfig(name=bytes_rbac_name(inbound.service))
    both = _both(inbound.guard, lambda guard: _whole_rules(guard, domains))
    pack(config.typed_config, filter_config("tcp", inbound.service, *both))
    return config


def _whole_rules(guard: Guard, domains: Domains) -> Rules:
    rules = Rules(action=Rules.ALLOW)
    for rule in guard.rules:
        if rule.action == "allow" and rule.source != ANY:
            _add(rules, rule, _caller(domains.ids(rule.source)))
    return rules


def _both(guard: Guard, translate: Callable[[Guard], Rules]) -> tuple[Rules, Rules | None]:
    """What is enforced, and what is judged beside it."""
    return translate(guard), translate(guard.shadow) if guard.shadow else None


def rbac_filter(inbound: Inbound, domains: Domains, *, plain: bool = False) -> TypedExtensionConfig:
    """The filter of one inbound. A plain-text caller has proven nothing, so only what any stranger may do is open to it."""
    config = TypedExtensionConfig(name=plain_rbac_name(inbound.service) if plain else rbac_name(inbound.service))
    both = _both(inbound.guard, plain_rules if plain else lambda guard: guard_rules(guard, domains))
    pack(config.typed_config, filter_config(inbound.protocol, inbound.service, *both))
    return config


def filter_config(protocol: str, service: str, rules: Rules, shadow: Rules | None = None) -> HttpRbac | NetworkRbac:
    """The filter around rules: HTTP or network, as the service speaks. It says of `shadow` what that would refuse."""
    if protocol in HTTP_PROTOCOLS:
        return HttpRbac(rules=rules, shadow_rules=shadow)
    return NetworkRbac(rules=rules, shadow_rules=shadow, stat_prefix=rules_prefix(service))


def deny_all(protocol: str) -> HttpRbac | NetworkRbac:
    """What holds before the rules arrive: an ALLOW list with nothing on it."""
    nothing = Rules(action=Rules.ALLOW)
    return HttpRbac(rules=nothing) if protocol in HTTP_PROTOCOLS else NetworkRbac(rules=nothing, stat_prefix="tcp.")


def rules_by_ecds(discovery: ExtensionConfigSource, protocol: str) -> None:
    """The RBAC filter's rules by ECDS, and deny until they are there (measured: 403 at once, others serve at once)."""
    by_ecds(discovery, deny_all(protocol))


def guard_rules(guard: Guard, domains: Domains) -> Rules:
    """The ALLOW list of a guard for callers that prove a SPIFFE ID."""
    rules = Rules(action=Rules.ALLOW)
    named: list[Principal] = []
    for rule in guard.rules:
        who = _anyone_but(named, domains) if rule.source == "*" else _caller(domains.ids(rule.source))
        _add(rules, rule, who)
        if rule.source != "*":
            named.append(who)
    if guard.default == "allow" and guard.rule_for("") is None:
        policy = rules.policies["default"]
        policy.permissions.add(any=True)
        policy.principals.append(_anyone_but(named, domains))
    return rules


def plain_rules(guard: Guard) -> Rules:
    """The ALLOW list for callers without a certificate: the wildcard rule, else the default."""
    return caller_rules(guard, "")


def caller_config(protocol: str, guard: Guard, source: str) -> HttpRbac | NetworkRbac:
    """The filter where only this source can come by."""
    return filter_config(protocol, guard.destination, *_both(guard, lambda each: caller_rules(each, source)))


def caller_rules(guard: Guard, source: str) -> Rules:
    """The ALLOW list where only this source can come by."""
    rules = Rules(action=Rules.ALLOW)
    rule = guard.rule_for(source)
    if rule:
        _add(rules, rule, Principal(any=True))
    elif guard.default == "allow":
        rules.policies["default"].permissions.add(any=True)
        rules.policies["default"].principals.add(any=True)
    return rules


def _add(rules: Rules, rule: Rule, who: Principal) -> None:
    if rule.action == "allow":
        _allow(rules.policies[rule.id], RbacPermission(any=True), who)
    for index, permission in enumerate(rule.permissions):
        if permission.action == "allow":
            earlier = [other for other in rule.permissions[:index] if other.action == "deny"]
            _allow(rules.policies[f"{rule.id}#{index}"], _after(earlier, permission), who)


def _allow(policy: Policy, what: RbacPermission, who: Principal) -> None:
    policy.permissions.append(what)
    policy.principals.append(who)


def _after(denied: list[Permission], permission: Permission) -> RbacPermission:
    """What the permission matches and no earlier deny does."""
    wanted = request_permission(permission.http, "allow")
    if not denied:
        return wanted
    both = RbacPermission()
    both.and_rules.rules.append(wanted)
    for other in denied:
        both.and_rules.rules.add().not_rule.CopyFrom(request_permission(other.http, "deny"))
    return both


def _caller(uris: tuple[str, ...]) -> Principal:
    """A caller whose certificate carries exactly one of these URI SANs; `principal_name` would take a DNS SAN too."""
    return _either([_mtls(SubjectAltNameMatcher(san_type=SubjectAltNameMatcher.URI), exact=uri) for uri in uris])


def _anyone_but(named: list[Principal], domains: Domains) -> Principal:
    kind = SubjectAltNameMatcher.URI
    anyone = _either([_mtls(SubjectAltNameMatcher(san_type=kind), prefix=each) for each in domains.prefixes()])
    if not named:
        return anyone
    both = Principal()
    both.and_ids.ids.append(anyone)
    for other in named:
        both.and_ids.ids.add().not_id.CopyFrom(other)
    return both


def _either(principals: list[Principal]) -> Principal:
    if len(principals) == 1:
        return principals[0]
    either = Principal()
    either.or_ids.ids.extend(principals)
    return either


def _mtls(matcher: SubjectAltNameMatcher, *, exact: str = "", prefix: str = "") -> Principal:
    if exact:
        matcher.matcher.exact = exact
    else:
        matcher.matcher.prefix = prefix
    principal = Principal()
    principal.custom.name = "envoy.rbac.principals.mtls_authenticated"
    pack(principal.custom.typed_config, MtlsAuthenticated(san_matcher=matcher))
    return principal
