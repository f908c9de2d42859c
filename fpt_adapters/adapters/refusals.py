"""Checks that refuse calls on a delta's adapter. They need no peft."""

from transformers import PreTrainedModel

from ..rules.adapter_settings import NAME


def refuse_other_adapter(model: PreTrainedModel, names: list[str] | str) -> None:
    """Raise ValueError if the backbone has no adapter, or one with another name."""
    if model._wrapping is not None:
        raise ValueError(
            "peft is around this model and has its adapters: call the PeftModel's own methods, or unload it first."
        )
    if model.config.peft_config is None:
        raise ValueError("This model has no adapter in its delta: call add_adapter() or load_adapter() first.")
    if names not in (NAME, [NAME]):
        raise ValueError(f"The adapter in this model's delta is called {NAME!r}; got {names!r}.")


def refuse_wrapped(model: PreTrainedModel) -> None:
    """Raise ValueError if peft wraps the model, or has merged an adapter into its base."""
    if model._wrapping is not None:
        raise ValueError(
            "peft is around this model, and has what trains: save the PeftModel, whose folder load_adapter() "
            "reads, or unload it first."
        )
    if model.base_changed:
        raise ValueError(
            "An adapter was merged into the base, whose weights a delta does not hold: save_backbone() writes "
            "them as a base of its own; to keep the adapter in the delta, save the PeftModel before merging and "
            "load_adapter() its folder."
        )
