"""The base class of all models: building on a base, loading, saving and pushing."""
