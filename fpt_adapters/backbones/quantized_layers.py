"""bitsandbytes' linear layers under a delta: told apart by the class of their weights, and kept as they are.

bitsandbytes need not be installed where no base is quantised, so its classes go by their names.
"""

import logging

from torch import Tensor, nn

from .structure import FOUR_BITS, is_quantized

KERNELS = logging.getLogger("bitsandbytes.backends.cpu.ops")  # warns as Trainer's module imports bitsandbytes
CASTS = logging.getLogger("bitsandbytes.autograd._functions")  # warns, at each call, that 8-bit products cast inputs


def _is_of_use(record: logging.LogRecord) -> bool:
    """Whether a warning is about more than a kernel that `freeze_layers` never lets run, or a cast of each call."""
    return not any(words in str(record.msg) for words in ("gemm_4bit_forward", "inputs will be cast"))


for each in (KERNELS, CASTS):
    each.addFilter(_is_of_use)


def parameter_size(parameter: nn.Parameter) -> int:
    """How many weights a parameter stands for; 4-bit ones lie packed in fewer elements."""
    return parameter.quant_state.shape.numel() if type(parameter).__name__ == FOUR_BITS else parameter.numel()


def freeze_layers(backbone: nn.Module) -> None:
    """Keep bitsandbytes' layers from changing their own tensors as they run.

    They cast their bias for good to the dtype of what comes in, which may differ from call to call. And on a CPU with
    AVX512-BF16 a 4-bit layer packs its weights anew in evaluation mode, whereupon no gradient passes through it.
    """
    for module in backbone.modules():
        if not isinstance(module, nn.Linear) or not is_quantized(module.weight):
            continue
        if type(module.weight).__name__ == FOUR_BITS:
            module.support_avx512bf16_for_cpu = False
        else:
            if module.bias is not None:
                module.register_forward_pre_hook(_in_dtype_of_bias)
    settle_biases(backbone)


def settle_biases(backbone: nn.Module) -> None:
    """Give the biases of 4-bit layers the dtype that the layers compute in (peft's preparation makes them fp32)."""
    for module in backbone.modules():
        if isinstance(module, nn.Linear) and module.bias is not None and type(module.weight).__name__ == FOUR_BITS:
            module.bias.data = module.bias.data.to(module.compute_dtype)


def _in_dtype_of_bias(module: nn.Linear, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """A forward hook: input (..., in_features) -> the same, so that the layer finds nothing to cast."""
    return (inputs[0].to(module.bias.dtype),)
