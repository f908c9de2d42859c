"""What a configuration may say: it may come from a stranger, and chooses no code, no files, no absurd sizes."""
