"""Studies: models x tasks x seeds x learning rates, each run once, chosen on validation, compared with the paper."""
