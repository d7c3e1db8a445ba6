"""Meaning in the store: the key layout, records, the World that they add up to, and how they are changed."""
