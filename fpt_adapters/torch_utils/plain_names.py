"""Names of modules and tensors without the wrappers that torch.compile puts around modules.

`model.fpt.backbone = torch.compile(model.fpt.backbone)` renames each parameter in it to `fpt.backbone._orig_mod...`,
and then no checkpoint fits. All names that this library makes, saves or compares come from here.
"""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

COMPILED = "_orig_mod"  # the wrapped module's name in its wrapper (`torch._dynamo.OptimizedModule`)


def plain_name(name: str) -> str:
    """A name without the wrappers in its path."""
    return ".".join(part for part in name.split(".") if part != COMPILED) if COMPILED in name else name


def plain_module(module: nn.Module) -> nn.Module:
    """The module inside a wrapper; any other module is returned as it is."""
    return dict(module.named_children()).get(COMPILED, module)


def has_wrappers(module: nn.Module) -> bool:
    """Whether torch.compile wraps a part of a module."""
    return any(name.rpartition(".")[2] == COMPILED for name, _ in module.named_modules())


def named_modules(module: nn.Module, remove_duplicate: bool = True) -> dict[str, nn.Module]:
    """All modules by name, as `Module.named_modules`, with wrapped modules in place of their wrappers."""
    return {plain_name(name): one for name, one in module.named_modules(remove_duplicate=remove_duplicate)}


def named_parameters(module: nn.Module, remove_duplicate: bool = True) -> dict[str, nn.Parameter]:
    """All parameters by name, as `Module.named_parameters`."""
    return {plain_name(name): one for name, one in module.named_parameters(remove_duplicate=remove_duplicate)}


def named_buffers(module: nn.Module, recurse: bool = True) -> dict[str, Tensor]:
    """All buffers by name, as `Module.named_buffers`."""
    return {plain_name(name): one for name, one in module.named_buffers(recurse=recurse)}


def plain_state(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with plain names."""
    return {plain_name(name): tensor for name, tensor in state_dict.items()}


def keep_plain_states(model: nn.Module) -> None:
    """Make `model.state_dict()` return plain names, and `model.load_state_dict()` accept and report them."""
    model.register_state_dict_post_hook(_rename_given)
    model.register_load_state_dict_pre_hook(_rename_taken)
    model.register_load_state_dict_post_hook(_rename_reported)


def _rename_given(model: nn.Module, state_dict: dict, prefix: str, metadata: dict) -> None:
    for name in [name for name in state_dict if name.startswith(prefix) and COMPILED in name]:
        state_dict[prefix + plain_name(name.removeprefix(prefix))] = state_dict.pop(name)


def _rename_taken(model: nn.Module, state_dict: dict, prefix: str, *_) -> None:
    wrapped = {plain_name(name): name for name in _wrapped_names(model)}
    for name in [name for name in state_dict if name.startswith(prefix)]:
        plain = plain_name(name.removeprefix(prefix))
        state_dict[prefix + wrapped.get(plain, plain)] = state_dict.pop(name)


def _rename_reported(model: nn.Module, keys) -> None:
    for names in (keys.missing_keys, keys.unexpected_keys):
        names[:] = map(plain_name, names)


def _wrapped_names(model: nn.Module) -> Iterator[str]:
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return (name for name, _ in named if COMPILED in name)
