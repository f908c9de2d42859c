"""The methods of an FPT model for peft's adapters. peft is imported only when it is used, because that takes long."""

import os
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..deltas.file import Delta
from ..hub.download import HUB_KEYS
from ..rules.adapter_settings import NAME

if TYPE_CHECKING:
    from .peft_api import PeftConfig


class PeftMixin:
    """Methods for adapters inside a delta, for peft's own adapters around a model, and for FPT in peft's form."""

    base_changed = False  # whether an adapter was merged into the base's weights
    _wrapping = None  # a `Wrapping` while peft wraps this model

    # An adapter inside the backbone

    def add_adapter(
        self, adapter_config: "PeftConfig | dict[str, Any] | str", adapter_name: str | None = None
    ) -> None:
        """Add an adapter to frozen layers of attention or feed-forward; it trains and is saved with the groups.

        `adapter_config`: as `peft_config` of `from_backbone`. Raises ValueError for a second adapter, for another name
        than "fpt_delta", and for what `from_backbone` refuses.
        """
        from .adding import add_adapter

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
            self.apply_policy()  # peft freezes everything, even when it raises afterwards

    def delete_adapter(self, adapter_names: list[str] | str = NAME) -> None:
        """Remove the adapter inside the backbone without merging it. Raises ValueError if none has that name."""
        from .adding import remove_adapters

        self._refuse_other_adapter(adapter_names)
        remove_adapters(self.fpt_model.backbone)
        self.config.peft_config = None
        self.config.trainable = [group for group in self.config.trainable if group != "adapter"]
        self.apply_policy()

    def disable_adapters(self) -> None:
        """Run without the adapter inside the backbone until `enable_adapters`; the delta still holds it.

        Raises ValueError if there is none.
        """
        from .adding import set_enabled

        self._refuse_other_adapter()
        set_enabled(self.fpt_model.backbone, False)

    def enable_adapters(self) -> None:
        """Run with the adapter inside the backbone again, and train it. Raises ValueError if there is none."""
        from .adding import set_enabled

        self._refuse_other_adapter()
        set_enabled(self.fpt_model.backbone, True)
        self.apply_policy()

    def active_adapters(self) -> list[str]:
        """Return ["fpt_delta"], also while disabled. Raises ValueError without an adapter inside the backbone."""
        self._refuse_other_adapter()
        return [NAME]

    def set_adapter(self, adapter_name: list[str] | str) -> None:
        """Do nothing: a delta's only adapter is always active. Raises ValueError for any other name."""
        self._refuse_other_adapter(adapter_name)

    def get_adapter_state_dict(
        self, adapter_name: str | None = None, state_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The adapter's tensors under peft's names, from `state_dict` or else from this model.

        Raises ValueError without an adapter inside the backbone, and for another name than "fpt_delta".
        """
        from .adding import adapter_state_dict

        self._refuse_other_adapter(NAME if adapter_name is None else adapter_name)
        return adapter_state_dict(self, state_dict)

    def enable_peft_hotswap(self, *args: Any, **kwargs: Any) -> None:
        """Always raise ValueError: `load_adapter` replaces the values of an adapter without this step."""
        raise ValueError(
            "load_adapter() puts an adapter's values into the one that the model has, of the same settings: leave "
            "enable_peft_hotswap() out."
        )

    def _refuse_other_adapter(self, names: list[str] | str = NAME) -> None:
        from .refusals import refuse_other_adapter

        refuse_other_adapter(self, names)

    def _adapter_parameters(self) -> list[nn.Parameter]:
        if self.config.peft_config is None:
            return []
        from .adding import adapter_parameters

        return adapter_parameters(self.fpt_model.backbone)

    # FPT in peft's form

    def to_peft_config(self) -> "PeftConfig":
        """The peft configuration with which `get_peft_model(model, ...)` trains exactly what the policy trains.

        LN tuning for the norms, `modules_to_save` for the rest; with an adapter in the backbone, its configuration,
        for a model built without one. Raises ValueError for what peft cannot train or would not save: a part of a
        module, or new modules that stay frozen.
        """
        from .peft_format import to_peft_config

        return to_peft_config(self)

    def save_peft_adapter(self, save_directory: str | os.PathLike) -> None:
        """Write the delta as a peft adapter, which `PeftModel.from_pretrained` and `load_adapter` read.

        `save_directory`, new or empty, gets `adapter_config.json`, `adapter_model.safetensors` and FPT's
        `config.json`, from which `from_backbone(base, config=...)` builds the model that peft wraps. Raises ValueError
        as `to_peft_config` does, and for a folder that is not empty.
        """
        from .peft_format import write_adapter

        write_adapter(self, save_directory)

    def load_adapter(
        self, peft_model_id: str | os.PathLike, adapter_name: str | None = None, **hub_kwargs: Any
    ) -> None:
        """Load values from a peft adapter folder or repo that has every tensor of this model's delta.

        `hub_kwargs`: `revision`, `token`, `cache_dir` and the like. If it has an adapter for frozen layers, that is
        added first, as "fpt_delta". Raises DeltaError for tensors that are missing, unexpected or of another shape,
        and for other settings than the model's; ValueError for another name; TypeError for an unknown keyword; OSError
        if a file cannot be found.
        """
        from .peft_format import read_adapter

        self._refuse_wrapped()
        unknown = sorted(hub_kwargs.keys() - HUB_KEYS)
        if unknown:
            raise TypeError(
                f"load_adapter() takes {', '.join(HUB_KEYS)}; got {', '.join(unknown)}. What it loads becomes this "
                "model's delta, trained as its policy says."
            )
        if adapter_name not in (None, NAME):
            raise ValueError(f"A delta has one adapter, {NAME!r}; got {adapter_name!r}: leave the name out.")
        before = self.config.peft_config
        try:
            tensors = read_adapter(self, peft_model_id, **hub_kwargs)
            self._load_delta(Delta(tensors, {}, format=0), peft_model_id)
        except (ValueError, OSError):
            if before is None and self.config.peft_config is not None:
                self.delete_adapter()
            raise

    # peft's own adapters around the model

    @property
    def peft_config(self) -> "dict[str, PeftConfig]":
        """Configurations of peft by adapter name, around this model or in it. Raises AttributeError without any."""
        if self._wrapping is not None:
            return self._wrapping.configs
        if self.config.peft_config is None:
            raise AttributeError("This model has no adapter of peft's.")
        return self.fpt_model.backbone.peft_config

    @peft_config.setter
    def peft_config(self, configs: "dict[str, PeftConfig]") -> None:  # peft sets it last when it wraps a model
        from .peft_wrapping import Wrapping

        self._wrapping = Wrapping(self, configs)

    @peft_config.deleter
    def peft_config(self) -> None:  # peft deletes it last when it unloads or merges
        wrapping, self._wrapping = self._wrapping, None
        wrapping.end(self)

    def _refuse_wrapped(self) -> None:
        if self._wrapping is not None or self.base_changed:
            from .refusals import refuse_wrapped

            refuse_wrapped(self)
