"""Kuma: MeshHTTPRoute, MeshTrafficPermission and the policies of traffic."""
