"""Attention, dropout and GELU that run faster on a CPU."""
