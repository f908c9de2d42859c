"""What every model's `from_pretrained` and `save_pretrained` take, and which of it means something here."""

from typing import Any

# Arguments that change nothing here: how transformers reads and writes its own files, and marks of its Auto classes.
IGNORED_LOADING = (
    "_commit_hash",
    "_fast_init",
    "_from_auto",
    "_from_pipeline",
    "adapter_kwargs",
    "code_revision",
    "disable_mmap",
    "generation_config",
    "low_cpu_mem_usage",
    "mirror",
    "offload_buffers",
    "offload_state_dict",
    "proxies",
    "tqdm_class",
    "trust_remote_code",
    "weights_only",
)
IGNORED_SAVING = ("save_function", "save_original_format", "save_peft_format")
ONE_FILE = "a delta is one file, model.safetensors: name its folder, its subfolder or its revision"
WHOLE = "each process loads a whole base: leave it out, and let FPTTrainer shard"
# Arguments with only one valid value here, and what to do instead of using others. None is always valid.
REFUSED_LOADING = {
    "adapter_name": ("default", "a delta has one adapter, which comes with it: leave it out"),
    "allow_all_kernels": (False, "kernels are not fetched: leave it out"),
    "device_mesh": (None, WHOLE),
    "distributed_config": (None, WHOLE),
    "from_flax": (False, "deltas and bases are read from safetensors only"),
    "from_tf": (False, "deltas and bases are read from safetensors only"),
    "fusion_config": (None, "the base runs as it is: leave it out"),
    "gguf_file": (None, "load a delta from its folder"),
    "ignore_mismatched_sizes": (False, "a delta fits its model exactly: build another head with from_backbone"),
    "kernel_config": (None, "kernels are not fetched: leave it out"),
    "key_mapping": (None, "a delta has the names of its model: leave it out"),
    "load_in_4bit": (False, "it is a setting of quantization_config: write BitsAndBytesConfig(load_in_4bit=True)"),
    "load_in_8bit": (False, "it is a setting of quantization_config: write BitsAndBytesConfig(load_in_8bit=True)"),
    "max_memory": (None, "name the devices of the base's parts in device_map"),
    "offload_folder": (None, "a base is not offloaded to disk: leave it out"),
    "state_dict": (None, "load a delta from its folder"),
    "tp_plan": (None, WHOLE),
    "tp_size": (None, WHOLE),
    "use_kernels": (False, "kernels are not fetched: leave it out"),
    "use_safetensors": (True, "deltas and bases are read from safetensors only"),
    "variant": (None, ONE_FILE),
}
REFUSED_SAVING = {
    "distributed_checkpoint": (False, "gather the delta: FPTTrainer.save_model does, and accelerator.get_state_dict"),
    "safe_serialization": (True, "a delta is written as safetensors only: leave it out"),
    "variant": (None, ONE_FILE),
}


def take_stock_arguments(
    kwargs: dict[str, Any], ignored: tuple[str, ...], refused: dict[str, tuple[Any, str]]
) -> dict[str, Any]:
    """Return `kwargs` without those that change nothing here. Raises ValueError for one that cannot be honoured."""
    for name, (harmless, instead) in refused.items():
        value = kwargs.get(name)
        if value is not None and value is not harmless and value != harmless:
            raise ValueError(f"{name}={value!r:.60} has no meaning for a delta: {instead}.")
    return {name: value for name, value in kwargs.items() if name not in ignored and name not in refused}
