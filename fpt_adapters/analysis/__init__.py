"""Pictures and attention maps."""
