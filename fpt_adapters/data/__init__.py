"""Rows from files and the Hub that are streamed: read one after another, and never all held."""
