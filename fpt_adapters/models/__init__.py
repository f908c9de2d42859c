"""What all models share: building on a base, loading, saving and pushing."""
