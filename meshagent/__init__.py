"""A service mesh for machines without Kubernetes: one agent per host beside the local Envoy."""

__version__ = "0.1.0"
