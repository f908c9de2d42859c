"""The freezing policy of a model: each parameter's group, which groups train, and where a delta has them."""

from typing import TYPE_CHECKING, Any

from ..backbones.places import backbone_places, own_place
from ..backbones.policy import apply_policy, backbone_groups
from ..deltas.tensors import running_statistics, tensor_digest
from ..rules.travelling import TRAVELS
from ..torch_utils.plain_names import named_parameters
from .consistency import note_fields, refuse_fewer

if TYPE_CHECKING:
    from ..backbones.counting import GroupCount


class PolicyMixin:
    """The methods of `FPTPreTrainedModel` that say which parameters train."""

    trained_groups: dict[str, str]  # of each parameter that the policy trains, by name: a delta holds these
    built_by: dict[str, Any] | None = None  # fields of the configuration that the weights fit

    def apply_policy(self) -> None:
        """Let the groups of `config.trainable` train and freeze all else; the outermost constructor ends with this.

        Raises ValueError if a group of the backbone is left out that trained before: a delta would lose its values.
        """
        self.main_input_name = self.fpt_model.input_projection.input_name
        trainable = [group for group in self.config.trainable if not (self.headless and group == "output")]
        if self.config.base_quantization is not None:
            from ..backbones.quantized_layers import settle_biases

            settle_biases(self.fpt_model.backbone)
        parameters = named_parameters(self)
        whose = f"the backbone {type(self.fpt_model.backbone).__name__}"
        groups = self.parameter_groups()
        if not TRAVELS:
            refuse_fewer(self, groups, trainable)
        apply_policy(parameters, groups, trainable, whose)
        if self.fpt_model.shares_base:
            from ..backbones.sharing import own_weights

            own_weights(self.fpt_model.backbone)
        self.trained_groups = {name: groups[name] for name, parameter in parameters.items() if parameter.requires_grad}
        buffers = running_statistics(self)
        self._base_buffer_digests = {name: tensor_digest(buffer) for name, buffer in buffers.items()}
        self._ignore_on_save(self._delta_parameters(parameters))
        if not TRAVELS:
            note_fields(self)

    def parameter_groups(self) -> dict[str, str]:
        """Map the name of every parameter to its group: one of `PARAMETER_GROUPS`, or other."""
        prefix = self._prefix
        own_positions = self.config.positions == "backbone"
        backbone, qk_norms = self.fpt_model.backbone, self.config.train_qk_norms
        last_attention = "last_attention" in self.config.trainable
        adapter, native = self._adapter_parameters(), self.config.input.native
        groups = backbone_groups(backbone, own_positions, qk_norms, last_attention, adapter, native)
        groups = {self.backbone_prefix + name: group for name, group in groups.items()}
        for name in named_parameters(self):
            if name.startswith(f"{prefix}input_projection."):
                groups[name] = "input"
            elif name == f"{prefix}position_embeddings.weight":
                groups[name] = "position"
            elif name not in groups:
                groups[name] = "output"
        return groups

    def count_parameters(self) -> "list[GroupCount]":
        """Count tensors and parameters of each group, with its share of the whole and whether it trains."""
        from ..backbones.counting import count_by_group

        return count_by_group(self, self.parameter_groups())

    def print_trainable_parameters(self) -> None:
        """Print the table of parameters by group."""
        from ..backbones.counting import format_table

        print(format_table(self.count_parameters()))

    def tensor_places(self) -> dict[str, str]:
        """Map the name of each parameter, and of each buffer that training changes, to its place in a delta's file."""
        prefix, groups = self.backbone_prefix, self.parameter_groups()
        groups |= dict.fromkeys(running_statistics(self), "statistics")
        own = {name: own_place(name.removeprefix(self._prefix)) for name in groups if not name.startswith(prefix)}
        within = {name.removeprefix(prefix): group for name, group in groups.items() if name.startswith(prefix)}
        places = backbone_places(self.fpt_model.backbone, within)
        return own | {prefix + name: place for name, place in places.items()}
