"""Frozen values that every room may use. No I/O, no clock, no store, no Envoy."""
