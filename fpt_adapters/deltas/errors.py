"""The error of a delta that cannot be trusted."""


class DeltaError(ValueError):
    """A delta checkpoint that cannot be trusted, or that does not fit the model or the base it is loaded on."""
