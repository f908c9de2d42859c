"""Everything that this library imports from peft. Imported only where there is an adapter, because it takes long."""

try:  # a model that brings its own code may be loaded where peft is missing
    from peft import LNTuningConfig, PeftConfig, get_peft_model_state_dict, inject_adapter_in_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.tuners.ln_tuning.layer import LNTuningLayer
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import CONFIG_NAME as ADAPTER_CONFIG_NAME
    from peft.utils import SAFETENSORS_WEIGHTS_NAME as ADAPTER_WEIGHTS_NAME
    from peft.utils import ModulesToSaveWrapper
    from peft.utils.constants import DUMMY_TARGET_MODULES
    from peft.utils.other import set_additional_trainable_modules
except ImportError as error:
    raise ImportError("Adapters on frozen layers are peft's: pip install peft") from error

__all__ = [
    "ADAPTER_CONFIG_NAME",
    "ADAPTER_WEIGHTS_NAME",
    "DUMMY_TARGET_MODULES",
    "PEFT_TYPE_TO_CONFIG_MAPPING",
    "BaseTunerLayer",
    "LNTuningConfig",
    "LNTuningLayer",
    "ModulesToSaveWrapper",
    "PeftConfig",
    "get_peft_model_state_dict",
    "inject_adapter_in_model",
    "set_additional_trainable_modules",
]
