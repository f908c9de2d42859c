"""From raw data to embeddings: the processors, and the modules that project what they return."""
