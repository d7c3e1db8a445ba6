"""Protocols of the servers that the mesh is kept in: clients that know their wire and nothing of meshes."""
