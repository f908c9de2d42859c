"""Deltas, the trained part of a model, as files: exact names, digests, and writing that never leaves half a file."""
