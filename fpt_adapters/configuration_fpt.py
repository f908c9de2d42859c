"""`FPTConfig`: everything about a frozen pretrained transformer except its weights.

Paper: Lu, Grover, Abbeel, Mordatch, "Pretrained Transformers as Universal Computation Engines", arXiv 2103.05247.
"""

import copy
import dataclasses
import difflib
import os
from typing import TYPE_CHECKING, Literal

from huggingface_hub.dataclasses import strict, validated_field
from transformers import AutoConfig, PreTrainedConfig

from .backbones.baselines.configuration_identity import IdentityConfig  # noqa: F401  registers itself with AutoConfig
from .backbones.baselines.configuration_lstm import LSTMConfig  # noqa: F401
from .rules.base_rules import check_base
from .rules.config_rules import (
    build_base_config,
    check_dtype,
    check_implementation,
    check_labels,
    is_implementation,
    said_shortly,
)
from .rules.policy_rules import checked_policy
from .rules.ranges import (
    MAX_DEPTH,
    MAX_LABELS,
    MAX_SIZE,
    FloatFields,
    check_extent,
    check_probability,
    check_within,
    short,
)
from .rules.travelling import TRAVELS

if TYPE_CHECKING:
    from .heads.head import Head
    from .inputs.input_type import InputType

NO_FIELDS = "config.json of {} holds no fields by name, or is nested too deeply: fetch or save it again."

# Names beyond the dataclass fields that transformers itself passes to a config or writes into config.json.
TRANSFORMERS_KEYS = {
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "tie_word_embeddings",
    "torch_dtype",
    "use_cache",
}


def _tables() -> "tuple[dict[str, InputType], dict[str, Head]]":
    """Inputs and heads by name, imported on use: they need torch, and importing this file does not."""
    from .heads.table import HEADS
    from .inputs.table import INPUTS

    return INPUTS, HEADS


def _check_input_type(name: str) -> None:
    inputs, _ = _tables()
    if name not in inputs:
        raise ValueError(f"input_type is one of {', '.join(inputs)}; got {short(name)}.")


@strict
class FPTConfig(FloatFields, PreTrainedConfig):
    """Configuration of a frozen pretrained transformer: the base, the input, what trains, the head.

    Wrong values raise at construction: huggingface_hub's `StrictDataclassFieldValidationError` for a wrong type or
    choice, `ValueError` for fields that do not fit together, `TypeError` for an unknown name (with the nearest field).

    `num_labels`, `id2label`, `label2id` and `problem_type` mean what they mean in every transformers configuration.
    """

    model_type = "fpt"
    sub_configs = {"base_model_config": AutoConfig}

    # Which frozen weights: filled by `from_backbone`, checked by `from_pretrained`.
    base_model_config: dict | PreTrainedConfig | None = None  # the backbone's own configuration, nested
    base_model: str | None = None  # its Hub id; None: the caller must say where it is
    base_model_revision: str | None = None  # the commit that was loaded
    base_model_fingerprint: str | None = None  # hash of the backbone's weights before any training
    base_quantization: dict | None = None  # bitsandbytes settings that quantise them on loading; None: not quantised

    # How the backbone starts: chosen by the user.
    backbone_init: Literal["pretrained", "random", "statistics"] = "pretrained"
    backbone_init_seed: int = 0  # draws the random and the statistics weights
    backbone_init_scheme: Literal["transformers", "gpt2-scaled-residual", "gpt2-flat"] | None = None  # None: by model
    backbone_layers: int | None = None  # keep this many of the base's layers, the first ones; None: all
    backbone_dropout: float | int | None = None  # every dropout inside the backbone; None: from its own configuration

    # The input: declared by the task.
    input_type: str = validated_field(_check_input_type, default="values")  # a row of inputs/table.py
    sequence_length: int | None = None  # values, tokens, native text: the most tokens; native waves: the most samples
    input_size: int | None = None  # values: numbers per token
    vocab_size: int | None = None  # tokens: number of ids, padding included
    pad_token_id: int | None = None  # tokens, native text: the id that is masked where no attention_mask is given
    image_size: int | list[int] | tuple[int, ...] | None = None  # images: pixels, one side or [height, width]
    num_channels: int | None = None  # images, series: channels
    patch_size: int | None = None  # images: pixels of a square patch's side
    series_length: int | None = None  # series: the most time steps
    patch_length: int | None = None  # series, windows: time steps per patch
    patch_stride: int | None = None  # series, windows: time steps between the starts of two patches
    input_dropout: float | int = 0.1  # after the input projection (the paper's 0.1)

    # What trains: the policy.
    trainable: list[str] | tuple[str, ...] | None = None  # parameter groups with requires_grad; None: the paper's
    train_qk_norms: bool = False  # whether norms of queries and keys (Qwen3, OLMo2) count as `norm`
    positions: Literal["auto", "backbone", "new", "none"] = "auto"  # auto: the backbone's, else a new table
    peft_config: dict | None = None  # settings of the peft adapter on frozen layers; None: none

    # The head.
    pooling: Literal["auto", "last", "mean", "first"] = "auto"  # auto: last for a causal backbone, else mean
    labels_per_token: int = 1  # token classification: labels that each token carries (bits)

    keys_to_ignore_at_inference = ["loc", "scale"]  # outputs that Trainer's predictions leave out
    _as_read = None  # the config.json that an Auto class read before it knew this class

    def __post_init__(self, **kwargs):
        kwargs = {name: value for name, value in kwargs.items() if not name.startswith("_") or name == "_commit_hash"}
        self._refuse_unknown(kwargs)
        kwargs = dict.fromkeys(self._added_fields()) | kwargs
        check_dtype("dtype", self.dtype)
        check_dtype("dtype", kwargs.get("torch_dtype"))
        if "num_labels" in kwargs:
            check_within("num_labels", kwargs["num_labels"], 1, MAX_LABELS)
        if not TRAVELS:
            check_labels(self.id2label, self.label2id)
        if self.base_model_config is not None:
            self.base_model_config.name_or_path = self.base_model or ""
        if isinstance(self.image_size, tuple):
            self.image_size = list(self.image_size)
        super().__post_init__(**kwargs)
        if self.id2label is not None and self.label2id is None:
            self.label2id = {name: index for index, name in self.id2label.items()}
        self.check()

    def __setattr__(self, name: str, value):
        if name == "base_model_config" and isinstance(value, (dict, PreTrainedConfig)):
            value = build_base_config(value)
        super().__setattr__(name, value)

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> tuple[dict, dict]:
        """Read config.json as every configuration does. Raises ValueError for one without named fields or too deep."""
        try:
            values, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        except (AttributeError, RecursionError, TypeError) as error:  # raised by transformers for what it read
            raise ValueError(NO_FIELDS.format(pretrained_model_name_or_path)) from error
        if not isinstance(values, dict):
            raise ValueError(NO_FIELDS.format(pretrained_model_name_or_path))
        return values, unused

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """As for every configuration, but only the caller (`kwargs`), not the file, says how a model runs."""
        if not TRAVELS:
            check_extent(config_dict, "config.json", MAX_DEPTH + 1)
        for name, value in config_dict.items():
            check_implementation(name, value, "config.json")
        values = {name: value for name, value in config_dict.items() if not is_implementation(name)}
        values.pop("name_or_path", None)
        as_read = copy.deepcopy(config_dict) if "name_or_path" in kwargs else None  # only the Auto classes give it
        with said_shortly():
            found = super().from_dict(values, **kwargs)
        config = found[0] if isinstance(found, tuple) else found
        config._as_read = as_read
        return found

    def carried_over(self, values: dict) -> "FPTConfig":
        """Return this config if it was read from `values`, else a config of `values` with the caller's changes.

        For a delta that was saved again after an Auto class read its configuration and before its weights are read.
        """
        if self._as_read is None or self._as_read == values:
            return self
        before, now = FPTConfig.from_dict(copy.deepcopy(self._as_read)).to_dict(), self.to_dict()
        changed = {name: value for name, value in now.items() if name not in before or before[name] != value}
        config = FPTConfig.from_dict(values | changed)
        config.name_or_path, config._attn_implementation = self.name_or_path, self._attn_implementation
        return config

    def to_dict(self) -> dict:
        """As for every configuration, without private notes and without unset fields that a new input or head added.

        So the files of other inputs and heads do not change, and load where the new one is not known.
        """
        values = super().to_dict()
        unset = (name for name in self._added_fields() if vars(self).get(name) is None)
        for name in ("_as_read", *self.unknown_attributes(), *unset):
            values.pop(name, None)
        return values

    def unknown_attributes(self) -> list[str]:
        """Names of attributes set on this object that are no fields: not saved, because loading would refuse them."""
        known = self._known()
        return sorted(name for name in vars(self) if not name.startswith("_") and name not in known)

    def check(self) -> None:
        """Check every rule between fields; called at construction and again before a model is built or saved.

        Raises ValueError with the rule, what came, and what to write instead.
        """
        trainable = self.input.trained(self) if self.trainable is None else self.trainable
        groups, self.peft_config = checked_policy(trainable or (), self.peft_config, self.positions)
        self.trainable = groups if trainable is not None else None
        if not TRAVELS:
            check_base(self)
        if self.base_quantization is not None:
            from .rules.quantization import checked_quantization

            self.base_quantization = checked_quantization(self.base_quantization)
        self._check_input()
        self._check_head()

    @property
    def input(self) -> "InputType":
        """The input type that `input_type` names, with its fields, module and processor."""
        return _tables()[0][self.input_type].of(self)

    @property
    def num_tokens(self) -> int:
        """The most tokens that an example has, which is the length that the backbone's positions are cut to."""
        return self.input.num_tokens(self)

    @property
    def token_size(self) -> int:
        """How many numbers the input projection reads per token; for token ids, the rows of the embedding table."""
        return self.input.token_size(self)

    @property
    def hidden_size(self) -> int | None:
        """The backbone's hidden size, which DeepSpeed's integration asks a config for."""
        return None if self.base_model_config is None else self.base_model_config.hidden_size

    @classmethod
    def _known(cls) -> set[str]:
        return {f.name for f in dataclasses.fields(cls)} | TRANSFORMERS_KEYS | cls._added_fields()

    @classmethod
    def _added_fields(cls) -> set[str]:
        """Names of the fields that inputs and heads add to the dataclass fields above."""
        names = {name for table in _tables() for kind in table.values() for name in kind.fields}
        return names - {f.name for f in dataclasses.fields(cls)}

    @classmethod
    def _refuse_unknown(cls, kwargs: dict) -> None:
        known = cls._known()
        for name in kwargs:
            if name not in known and name != "_commit_hash":
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                fields = ", ".join(cls.own_fields())
                raise TypeError(f"FPTConfig has no field {short(name)}.{hint} Its fields: {fields}.")

    @classmethod
    def own_fields(cls) -> list[str]:
        """Names of the fields that this class adds to `PreTrainedConfig`."""
        inherited = {f.name for f in dataclasses.fields(PreTrainedConfig)}
        return [f.name for f in dataclasses.fields(cls) if f.name not in inherited]

    def _check_input(self) -> None:
        kind, (inputs, _) = self.input, _tables()
        every = {name for other in inputs.values() for name in other.fields}
        given = {name for name in every if getattr(self, name) is not None}
        if not given and self.base_model_config is None:
            return  # FPTConfig(): transformers builds one to learn a config's defaults
        for name in kind.needs:
            if name not in given:
                raise ValueError(f"input_type={self.input_type!r} needs {', '.join(kind.needs)}; {name} is missing.")
        for name in sorted(given.difference(kind.fields)):
            takes = ", ".join(kind.fields) or "none on this backbone"
            raise ValueError(f"{name} does not belong to input_type={self.input_type!r}, which takes {takes}.")
        for name in kind.needs:
            for value in getattr(self, name) if isinstance(getattr(self, name), list) else [getattr(self, name)]:
                check_within(name, value, 1, MAX_SIZE)
        check_probability("input_dropout", self.input_dropout)
        kind.check(self)
        for what, count in {"tokens": self.num_tokens, "numbers per token": self.token_size}.items():
            if count > MAX_SIZE:
                raise ValueError(f"An input has at most {MAX_SIZE} {what}, but these sizes make {short(count)}.")

    def _check_head(self) -> None:
        _, heads = _tables()
        for head in heads.values():
            head.check(self)
        numbers = sorted(self.id2label or ())
        if numbers != list(range(len(numbers))):
            raise ValueError(f"id2label numbers its labels 0..{len(numbers) - 1}, got {short(numbers)}.")
