"""The trained part as a file: exact names, digests, written whole or not at all."""
