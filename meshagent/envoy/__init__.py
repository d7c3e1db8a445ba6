"""The proxy process: found, configured, started, adopted, watched, drained. Knows no mesh word."""
