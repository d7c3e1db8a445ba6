"""Gateways, as commands check and explain them."""

from __future__ import annotations

EDGE = """kind: gateway
name: edge
listeners: [{{port: 8443}}]
routes:
- {{hosts: [shop.example.org], path_prefix: /api, service: api}}
- {{hosts: [shop.example.org], service: {service}}}
"""
STRIPE = "kind: external\nname: stripe\nhosts: [a.example]\nport: 443\nprotocol: http\ntls: {mode: originate}\n"
ALLOWED = "---\nkind: intention\nname: web\nsources: [{name: edge, action: allow}]\n"


def edge(service="web"):
    return EDGE.format(service=service)


def test_one_that_leads_requests_to_a_tcp_service_is_refused_from_either_side(mesh, file):
    mesh.register("web", protocol="tcp")
    mesh.register("api", protocol="http")
    refused = mesh.run("policy", "apply", "-f", file(edge()), code=3).stderr
    assert "p.yaml:6: routes[1].service: leads to web, which speaks tcp" in refused
    http = file("kind: service\nname: web\nprotocol: http\n", "web.yaml")
    mesh.run("policy", "apply", "-f", http)
    mesh.run("policy", "apply", "-f", file(edge()))
    tcp = file("kind: service\nname: web\nprotocol: tcp\n", "web.yaml")
    assert "the gateway edge leads requests to web" in mesh.run("policy", "apply", "-f", tcp, code=3).stderr


def test_one_that_leads_outside_the_mesh_is_refused(mesh, file):
    mesh.register("api", protocol="http")
    refused = mesh.run("policy", "apply", "-f", file(f"{edge('stripe')}---\n{STRIPE}"), code=3).stderr
    assert "stripe is a name outside the mesh" in refused


def test_it_is_known_as_a_source_and_what_it_leads_to_has_to_be(mesh, file):
    mesh.register("api", protocol="http")
    told = mesh.run("policy", "apply", "-f", file(edge("shpo") + ALLOWED.replace("web", "api"))).stderr
    assert "p.yaml:6: routes[1].service: no service shpo is registered yet" in told and "service edge" not in told


def test_explain_says_what_it_may_call(mesh, file):
    mesh.register("web", protocol="http")
    mesh.register("api", protocol="http")
    mesh.run("policy", "apply", "-f", file(edge() + ALLOWED))
    assert "edge -> web GET /: allowed" in mesh.run("explain", "edge", "web", "GET", "/").stdout
    mesh.run("explain", "edge", "api", "GET", "/api", code=5)
