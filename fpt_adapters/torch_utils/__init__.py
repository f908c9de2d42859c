"""Torch's wrappers, shards and modes: names without wrappers, whole tensors, what one thread alone changes."""
