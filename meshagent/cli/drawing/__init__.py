"""The mesh's calls as a graph: which there are, and how it is written and drawn. Pure."""
