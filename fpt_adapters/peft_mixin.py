"""What peft, and transformers' methods for it, find on an FPT model. peft is imported when used: that takes long."""

import os
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from .peft_api import PeftConfig


class PeftMixin:
    """Adapters that a delta holds, peft's own around a model, and FPT in peft's form."""

    base_changed = False  # whether an adapter was merged into the base's weights
    _wrapping = None  # a `Wrapping` while peft is around this model

    # An adapter inside the backbone

    def add_adapter(
        self, adapter_config: "PeftConfig | dict[str, Any] | str", adapter_name: str | None = None
    ) -> None:
        """Put an adapter on frozen layers of attention or feed-forward, trained and saved beside the groups.

        `adapter_config`: as `peft_config` of `from_backbone`. Raises ValueError for a second adapter, another name
        than "fpt_delta", and what `from_backbone` refuses.
        """
        from .adapters import NAME, add_adapter

        self._refuse_wrapped()
        if self.config.peft_config is not None or adapter_name not in (None, NAME):
            raise ValueError(
                f"A delta has one adapter, {NAME!r}; got {adapter_name or 'a second'!r}: leave the name out, and call "
                "delete_adapter() before another is added."
            )
        try:
            self.config.peft_config = add_adapter(self.fpt_model.backbone, adapter_config)
            self.config.check()
        finally:
            self.apply_policy()  # peft has frozen all, even where it then refused

    def delete_adapter(self, adapter_names: list[str] | str = "fpt_delta") -> None:
        """Take the adapter inside the backbone off, unmerged. Raises ValueError where there is none of that name."""
        from .adapters import NAME, strip

        if self.config.peft_config is None or adapter_names not in (NAME, [NAME]):
            held = "none" if self.config.peft_config is None else repr(NAME)
            raise ValueError(f"The model's delta has {held} for an adapter; got {adapter_names!r}.")
        strip(self.fpt_model.backbone)
        self.config.peft_config = None
        self.config.trainable = [group for group in self.config.trainable if group != "adapter"]
        self.apply_policy()

    def _adapter_parameters(self) -> list[nn.Parameter]:
        if self.config.peft_config is None:
            return []
        from .adapters import adapter_parameters

        return adapter_parameters(self.fpt_model.backbone)

    # FPT in peft's form

    def to_peft_config(self) -> "PeftConfig":
        """The peft configuration under which `get_peft_model(model, ...)` trains exactly what the policy trains.

        LN tuning of the norms, `modules_to_save` for the rest; with an adapter in the backbone, its own configuration,
        for a model built without one. Raises ValueError for what peft cannot train or would not save: a part of a
        module, new modules that stay frozen.
        """
        from .peft_format import to_peft_config

        return to_peft_config(self)

    def save_peft_adapter(self, save_directory: str | os.PathLike) -> None:
        """Write what the delta holds as a peft adapter, which `PeftModel.from_pretrained` and `load_adapter` read.

        `save_directory`, new or empty, gets `adapter_config.json`, `adapter_model.safetensors` and FPT's
        `config.json`, of which `from_backbone(base, config=...)` builds the model that peft wraps. Raises ValueError
        as `to_peft_config`, and for a folder that holds something.
        """
        from .peft_format import write_adapter

        write_adapter(self, save_directory)

    def load_adapter(self, peft_model_id: str | os.PathLike, **hub_kwargs: Any) -> None:
        """Take the values of a peft adapter folder or repo that has all that this model's delta would have.

        `hub_kwargs`: `revision`, `token`, `cache_dir` and the like. An adapter for frozen layers that comes with it is
        added first. Raises DeltaError for tensors that lack, are too many or of another shape, and for other settings
        than the model's; OSError where a file cannot be found.
        """
        from .peft_format import read_adapter

        self._refuse_wrapped()
        before = self.config.peft_config
        try:
            tensors = read_adapter(self, peft_model_id, **hub_kwargs)
            self._load_delta(tensors, peft_model_id)
        except (ValueError, OSError):
            if before is None and self.config.peft_config is not None:
                self.delete_adapter()
            raise

    # peft's own adapters around the model

    @property
    def peft_config(self) -> "dict[str, PeftConfig]":
        """Configurations of peft's by adapter name, around this model or in it; AttributeError if there is none."""
        if self._wrapping is not None:
            return self._wrapping.configs
        if self.config.peft_config is None:
            raise AttributeError("This model has no adapter of peft's.")
        return self.fpt_model.backbone.peft_config

    @property
    def _hf_peft_config_loaded(self) -> bool:
        """Whether transformers' methods (`disable_adapters` and the like) find an adapter."""
        return self.config.peft_config is not None

    @peft_config.setter
    def peft_config(self, configs: "dict[str, PeftConfig]") -> None:  # the last thing peft does when it wraps a model
        from .peft_wrapping import Wrapping

        self._wrapping = Wrapping(self, configs)

    @peft_config.deleter
    def peft_config(self) -> None:  # the last thing it does when it unloads or merges
        wrapping, self._wrapping = self._wrapping, None
        wrapping.end(self)

    def _refuse_wrapped(self) -> None:
        if self._wrapping is not None:
            raise ValueError(
                "peft is around this model, and has what trains: save the PeftModel, whose folder load_adapter() "
                "reads, or unload it first."
            )
        if self.base_changed:
            raise ValueError(
                "An adapter was merged into the base, whose weights a delta does not hold: save_backbone() writes "
                "them as a base of its own; to keep the adapter in the delta, save the PeftModel before merging and "
                "load_adapter() its folder."
            )
