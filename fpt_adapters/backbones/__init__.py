"""Frozen backbones: built or read as stored, their norms and positions found, driven from embeddings."""
