"""A study: models x tasks x seeds x learning rates, run once each, chosen on validation, reported beside the paper."""
