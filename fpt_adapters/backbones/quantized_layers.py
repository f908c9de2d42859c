"""bitsandbytes' linear layers under a delta: recognised by the class of their weights, and kept unchanged.

Without a quantised base bitsandbytes need not be installed, so its classes are known by their names.
"""

import logging

from torch import Tensor, nn

from .structure import FOUR_BITS, is_quantized

KERNELS = logging.getLogger("bitsandbytes.backends.cpu.ops")  # warns when Trainer's module imports bitsandbytes
CASTS = logging.getLogger("bitsandbytes.autograd._functions")  # warns at each call that 8-bit products cast inputs


def _is_of_use(record: logging.LogRecord) -> bool:
    """False for warnings about a kernel that `freeze_layers` keeps from running, and about the cast in each call."""
    return not any(words in str(record.msg) for words in ("gemm_4bit_forward", "inputs will be cast"))


for each in (KERNELS, CASTS):
    each.addFilter(_is_of_use)


def parameter_size(parameter: nn.Parameter) -> int:
    """How many weights a parameter stands for; 4-bit weights are packed in fewer elements."""
    return parameter.quant_state.shape.numel() if type(parameter).__name__ == FOUR_BITS else parameter.numel()


def freeze_layers(backbone: nn.Module) -> None:
    """Keep bitsandbytes' layers from changing their own tensors while they run.

    They cast their bias for good to the dtype of the input, which may differ from call to call. And on a CPU with
    AVX512-BF16 a 4-bit layer packs its weights anew in evaluation mode, and then no gradient passes through it.
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
    """Cast the biases of 4-bit layers to the dtype that the layers compute in (peft's preparation made them fp32)."""
    for module in backbone.modules():
        if isinstance(module, nn.Linear) and module.bias is not None and type(module.weight).__name__ == FOUR_BITS:
            module.bias.data = module.bias.data.to(module.compute_dtype)


def _in_dtype_of_bias(module: nn.Linear, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """A forward pre-hook: cast the input (..., in_features) to the bias's dtype, so that the layer casts nothing."""
    return (inputs[0].to(module.bias.dtype),)
