"""The agent's local API: what `Operations` offers, carried over a Unix socket."""
