"""peft's own calls on a whole model (`get_peft_model` and the like): what the policy trains still trains and is saved.

peft freezes the whole model that it wraps, and saves only the modules that it knows of. So the modules that the policy
trains become `modules_to_save` of every adapter. Calls that would still lose them are refused and undone.
"""

import copy

import torch
from torch import nn
from transformers import PreTrainedModel

from ..backbones.fingerprints import fingerprint_of
from ..deltas.tensors import overlay
from ..rules.adapter_settings import NAME
from ..torch_utils.plain_names import has_wrappers
from .adding import BASE_LAYER, PLAIN_STARTS, add_adapter, remove_adapters, replace_module
from .peft_api import (
    BaseTunerLayer,
    LNTuningLayer,
    ModulesToSaveWrapper,
    PeftConfig,
    set_additional_trainable_modules,
)
from .peft_format import plain_parameters, trained_modules


class Wrapping:
    """The state of peft around a model: its configurations by adapter name, and the modules that the policy trains.

    Raises ValueError, and leaves the model as it was, if what the policy trains cannot be kept. Adapters for
    inference are not changed.
    """

    def __init__(self, model: PreTrainedModel, configs: dict[str, PeftConfig]):
        self.configs = configs
        self._modules: list[str] = []
        try:
            _refuse_other_calls(model, configs)
            for name, config in configs.items():
                if not config.inference_mode:
                    self._modules = self._modules or list(trained_modules(model))
                    _save_modules(model, name, config, self._modules)
        except ValueError:
            _undo(model)
            raise
        self._hook = model.register_forward_pre_hook(self._refuse_forgotten)
        self._digest = frozen_digest(model)

    def end(self, model: PreTrainedModel) -> None:
        """Remove what peft left on an unloaded model, and apply the policy again."""
        self._hook.remove()
        for path, module in list(model.named_modules()):
            if isinstance(module, ModulesToSaveWrapper):  # unloading LN tuning leaves them in place
                replace_module(model, path, module.modules_to_save[module.active_adapters[0]])
        starts = {getattr(config, "init_lora_weights", True) for config in self.configs.values()}
        model.base_changed |= frozen_digest(model) != self._digest or not starts.issubset(PLAIN_STARTS)
        model.apply_policy()

    def _refuse_forgotten(self, model: PreTrainedModel, args: tuple) -> None:
        """Raise ValueError if a later adapter trains while a module that the policy trains is frozen."""
        if not (model.training and torch.is_grad_enabled() and any(p.requires_grad for p in model.parameters())):
            return
        self._modules = self._modules or list(trained_modules(model))
        for path in self._modules:
            if _is_forgotten(model.get_submodule(path)):
                raise ValueError(
                    f"An adapter added later does not train {path}, which the policy trains: give its configuration "
                    f"modules_to_save={self._modules}."
                )


def _is_forgotten(module: nn.Module) -> bool:
    if isinstance(module, ModulesToSaveWrapper):
        copies = module.modules_to_save
    elif isinstance(module, LNTuningLayer):
        copies = module.ln_tuning_layers
    else:
        return True
    missing = [name for name in module.active_adapters if name not in copies]
    return bool(missing) or not (module.active_adapters or module.disable_adapters)


def _refuse_other_calls(model: PreTrainedModel, configs: dict[str, PeftConfig]) -> None:
    if model.config.peft_config is not None:
        raise ValueError(
            f"The model has an adapter that its delta saves ({model.config.peft_config['peft_type']}), beside which "
            "peft would put a second: build it without peft_config, or call model.delete_adapter() first."
        )
    if has_wrappers(model):
        raise ValueError(
            "peft finds modules by their names, and torch.compile's wrappers change those: wrap the model with peft "
            "first, or compile its parts in place, with module.compile()."
        )
    for config in configs.values():
        if config.task_type is not None:
            raise ValueError(
                f"peft's model for task_type={str(config.task_type)!r} calls a language model's forward: write "
                "task_type=None."
            )


def _undo(model: PreTrainedModel) -> None:
    """Remove what peft added to a model; the adapter of its delta, if any, comes back with its values."""
    backbone, settings = model.fpt_model.backbone, model.config.peft_config
    own = {name: p for name, p in backbone.named_parameters() if f".{NAME}" in name}
    held = {name.replace(f".{BASE_LAYER}.", "."): p for name, p in own.items()}  # peft may have wrapped it
    remove_adapters(model)
    if settings:
        add_adapter(backbone, settings)
        overlay(backbone, held)
    model.apply_policy()


def _save_modules(model: nn.Module, name: str, config: PeftConfig, modules: list[str]) -> None:
    found = {path: model.get_submodule(path) for path in modules}
    tuned = [path for path in modules if isinstance(found[path], LNTuningLayer)]
    wrapped = [path for path in modules if isinstance(found[path], ModulesToSaveWrapper)]
    missing = [path for path in modules if path not in (*tuned, *wrapped)]
    taken = [path for path in missing if _has_adapter(found[path])]
    if taken:
        raise ValueError(
            f"The adapter goes on {taken[0]}, which the policy trains whole: leave it out of target_modules, or its "
            "group out of trainable."
        )
    added = copy.copy(config)
    added.modules_to_save, added.trainable_token_indices = missing, None
    set_additional_trainable_modules(model, added, model.config.to_dict(), name)
    config.modules_to_save = sorted({*(config.modules_to_save or ()), *modules}.difference(tuned)) or None


def _has_adapter(module: nn.Module) -> bool:
    return any(isinstance(inner, BaseTunerLayer) for inner in module.modules())


def frozen_digest(model: PreTrainedModel) -> str:
    """The fingerprint of the frozen weights of the base, whatever peft wraps around them."""
    named = plain_parameters(model).items()
    frozen = {name: p for name, p in named if name not in model.trained_groups}
    return fingerprint_of((name, p) for name, p in frozen.items() if name.startswith(model.backbone_prefix))
