"""Rules for configurations, which strangers may have written: they can choose no code, no files, no absurd sizes."""
