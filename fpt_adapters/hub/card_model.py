"""What a card says about the model itself: a description, the parameter table, and the code that loads it."""

import json
from typing import Any, Protocol

from ..backbones.counting import GroupCount, trained_sum
from ..configuration_fpt import FPTConfig
from ..heads.head import Head
from ..inputs.input_type import Loading
from ..rules.wording import counted, plain
from .card_template import byte_size, describe_base, share


class SharedModel(Protocol):
    """What a card needs from a model: its configuration, its head, and its parameters by group."""

    config: FPTConfig
    head_type: Head

    def count_parameters(self) -> list[GroupCount]:
        """Rows of the parameter table."""


def auto_class(model: SharedModel) -> str:
    """The name of the transformers class that loads this model."""
    return model.head_type.auto_class


def pipeline_tag(model: SharedModel) -> str | None:
    """The Hub's name for what the model does, if there is a transformers pipeline for it."""
    return model.head_type.pipeline_tag(model.config)


def model_facts(model: SharedModel, task_name: str | None, delta_bytes: int | None) -> dict[str, Any]:
    """The card's description of the model: its first line, a list, and the parameter table."""
    rows = sorted(model.count_parameters(), key=lambda row: not row.trained)
    trained = trained_sum(rows)
    task = f"{plain(task_name)}: " if task_name else ""
    parameters = f"{counted(trained.parameters, 'parameter')} ({share(trained.percent)} % of the whole)"
    size = "" if delta_bytes is None else f" of {byte_size(delta_bytes)}"
    description = [f"Base: {describe_base(model.config)}", f"Input: {model.config.input.describe(model.config)}"]
    answers = model.head_type.describe(model.config)
    if answers is not None:
        description.append(f"Answers: {answers}")
    if delta_bytes is not None:
        description.append(f"Delta: {counted(delta_bytes, 'byte')}, checked tensor by tensor when it is loaded.")
    return {
        "headline": f"{task}{parameters} trained on a frozen transformer, shared as a delta{size}.",
        "description": description,
        "parameter_rows": rows,
        "trained": trained,
    }


def loading_facts(model: SharedModel, repo_id: str, text: str) -> dict[str, Any]:
    """The parts of the card's code that loads the model: its class, a matching input, the shape of the output.

    `text`: the text that the code passes to a tokenizer.
    """
    config, head, base_argument, pipeline_arguments = model.config, model.head_type, "", ""
    if config.base_model is None and config.backbone_init != "random":
        place = '"path/to/the/base"'
        base_argument = f", base_model_name_or_path={place}"
        pipeline_arguments = f', model_kwargs={{"base_model_name_or_path": {place}}}'
    loading = Loading(
        repo_id=repo_id,
        auto_class=head.auto_class,
        pipeline_tag=head.pipeline_tag(config),
        base_argument=base_argument,
        pipeline_arguments=pipeline_arguments,
        output_name=head.output_name,
        text=json.dumps(text),
    )
    return {
        "auto_class": head.auto_class,
        "base_argument": base_argument,
        "output_name": head.output_name,
        "output_shape": f"({', '.join(map(str, head.shape_of_output(config)))})",
        "input_name": config.input.argument,
        "example": config.input.example(config),
        "usage": config.input.usage(config, loading),
    }


def example_text(tokenizer: Any | None) -> str:
    """A text that the tokenizer knows: "your text" or, if it knows no such words, its own first tokens."""
    text = "your text"
    if not hasattr(tokenizer, "decode"):
        return text
    special = set(tokenizer.all_special_ids)
    own = [token for token in range(len(tokenizer)) if token not in special]
    candidates = (text, tokenizer.decode(own[:3]), tokenizer.decode(own[:1]))
    return next((one for one in candidates if _knows(tokenizer, one)), text)


def _knows(tokenizer: Any, text: str) -> bool:
    """Whether a tokenizer has a token for each part of a text."""
    try:
        return tokenizer.unk_token_id not in tokenizer(text, verbose=False)["input_ids"]
    except Exception:  # what a tokenizer raises for an unknown word has no narrower class
        return False


def base_limits(config: FPTConfig) -> list[str]:
    """The card's limits that concern the base: the delta needs it, and how far it is checked."""
    if config.backbone_init == "random":
        return [
            "The delta is no model without its base: loading draws the random base again. Another version of torch or "
            "transformers may draw other weights; that is noticed, and refused."
        ]
    named = "`base_model_name_or_path=`"
    how = f"loading fetches the base too, or reads a copy given by {named}."
    if not config.base_model:
        how = f"whoever loads it must have the base, and say where it is with {named}."
    return [
        f"The delta is no model without its base: {how}",
        "A fingerprint checks that the base is the one trained on. It samples every tensor: it notices another or a "
        "fine-tuned base, but not one altered outside the samples.",
    ]
