"""Frozen backbones: building or reading them, finding their norms and positions, running them on embeddings."""
