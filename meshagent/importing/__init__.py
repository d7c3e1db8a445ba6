"""Policy of other meshes -> our documents, and a report of everything that has no place in them. Pure: text in, values out."""
