"""Consul's config entries: service-router, -splitter, -resolver, -defaults, -intentions, proxy-defaults, mesh."""
