"""From hidden states to an answer: pooling, logits and loss."""
