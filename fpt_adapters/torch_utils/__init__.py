"""Helpers for torch: names without wrappers, whole tensors of shards, settings that only one thread sees."""
