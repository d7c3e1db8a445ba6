"""Delta xDS for any resources, over a Unix socket: it knows Envoy's resource types, and no word of the mesh.

`cache` is what clients should hold, `stream` the protocol without the wire, `server` the wire.
"""
