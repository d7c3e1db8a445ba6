"""The real servers that tests and benchmarks start: found on PATH or where `make servers` put them."""
