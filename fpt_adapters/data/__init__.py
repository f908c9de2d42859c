"""Rows from files, the Hub and arrays, also those that are read one after the other."""
