"""Logs: one event a change, JSON unless a person is watching, and never a secret."""
