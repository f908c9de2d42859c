"""From raw data to embeddings: processors, and the modules that project what they return."""
