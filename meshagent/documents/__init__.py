"""Text to checked models and back, with file and line for every problem. Knows no word of the mesh: callers bring models.

`files` reads bytes from paths; everything else is pure. `read` makes plain data with lines, `decode` makes models,
`encode` goes the other way.
"""
