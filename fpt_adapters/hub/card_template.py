"""The model card's text: a Jinja template, and functions that put numbers, text and a configuration into words.

The template is a Python string, so that the package has only .py files.
"""

import re
from collections.abc import Sequence
from enum import Enum
from typing import Any

from ..configuration_fpt import FPTConfig
from ..rules.wording import counted, one_line, plain
from .card_metrics import FIRST, is_share
from .local_paths import is_path, last_part, without_paths

MANY_EXAMPLES = 10_000  # from this many on, percentages have a second decimal

TEMPLATE = """\
---
{{ card_data }}
---
{{ marker }}

# {{ repo_id }}

{{ headline }}

## Load it

```
pip install fpt_adapters
```

```python
import fpt_adapters  # without this line transformers "does not recognize this architecture"
import torch
from transformers import {{ auto_class }}

model = {{ auto_class }}.from_pretrained("{{ repo_id }}"{{ base_argument }})
inputs = {{ example }}
with torch.no_grad():
    print(model({{ input_name }}=inputs).{{ output_name }}.shape)  # {{ output_shape }}
```
{%- if with_processor and usage %}

{{ usage }}
{%- endif %}
{%- if with_code %}

Or without installing: `trust_remote_code=True` runs the Python files of this repository; read them first.

```python
from transformers import {{ auto_class }}

model = {{ auto_class }}.from_pretrained("{{ repo_id }}", trust_remote_code=True{{ base_argument }})
```
{%- endif %}

## What it is
{% for line in description %}
- {{ line }}
{%- endfor %}

| group | tensors | parameters | % of all | trained |
|---|---:|---:|---:|---|
{%- for row in parameter_rows %}
| {{ row.group }} | {{ thousands(row.tensors) }} | {{ thousands(row.parameters) }} | {{ share(row.percent) }} |{#-
#} {{ "yes" if row.trained else "no" }} |
{%- endfor %}
| all trained | {{ thousands(trained.tensors) }} | {{ thousands(trained.parameters) }} |{#-
#} {{ share(trained.percent) }} | yes |
{%- if result_rows %}

## Results

| split | examples |{% for name in columns %} {{ name }} |{% endfor %}{% if seed is not none %} seed |{% endif %}
|---|---:|{% for name in columns %}---:|{% endfor %}{% if seed is not none %}---:|{% endif %}
{%- for row in result_rows %}
| {{ row.split }} | {{ thousands(row.examples) }} |{% for cell in row.cells %} {{ cell }} |{% endfor %}{#-
#}{% if seed is not none %} {{ seed }} |{% endif %}
{%- endfor %}
{%- if floor_note %}

{{ floor_note }}
{%- endif %}
{%- endif %}
{%- for picture in pictures %}

![{{ picture.title }}]({{ picture.file }})
{%- endfor %}
{%- if training or recipe or command or versions %}

## Training
{%- if training %}
{% for line in training %}
- {{ line }}
{%- endfor %}
{%- endif %}
{%- if recipe %}

| setting | value |
|---|---|
{%- for name, value in recipe %}
| {{ name }} | {{ value }} |
{%- endfor %}
{%- endif %}
{%- if command %}

{{ command }}
{%- endif %}
{%- if versions %}

Versions: {{ versions }}.
{%- endif %}
{%- endif %}
{%- if data %}

## Licence and data
{% for line in data %}
- {{ line }}
{%- endfor %}
{%- endif %}

## Limits
{% for line in limits %}
- {{ line }}
{%- endfor %}

Made with fpt_adapters, after [Pretrained Transformers as Universal Computation Engines](https://arxiv.org/abs/2103.05247).
"""


# Numbers


def percent(fraction: float, examples: int = 0) -> str:
    """0.9633 -> 96.3 %; with two decimals where the fraction is of at least 10,000 examples."""
    return f"{100 * fraction:.{2 if examples >= MANY_EXAMPLES else 1}f} %"


def score(name: str, value: float | None, examples: int = 0) -> str:
    """The value of the metric `name` as text: a percentage for shares, else the number; "" for None."""
    if value is None:
        return ""
    return percent(value, examples) if is_share(name, [value]) else f"{value:.4g}"


def share(percentage: float) -> str:
    """A percentage that is often small: 0.0983 -> 0.098."""
    return f"{percentage:.3f}"


def byte_size(number: int) -> str:
    """65568 -> 65.6 kB (of 1,000 bytes)."""
    if number < 1000:
        return counted(number, "byte")
    for size, unit in ((1e9, "GB"), (1e6, "MB")):
        if number >= 0.99995 * size:  # what rounds to 1.0 of it
            return f"{number / size:.1f} {unit}"
    return f"{number / 1e3:.1f} kB"


def duration(seconds: float) -> str:
    """25.3 -> 25 s, 150 -> 2 min 30 s, 5400 -> 1 h 30 min."""
    whole = round(seconds)
    if whole < 10:
        return f"{seconds:.1f} s"
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(whole / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


# Text that others wrote


def readable(name: str) -> str:
    """masked_accuracy -> masked accuracy."""
    return plain(name.replace("_", " "))


def code(text: str) -> str:
    """Text as inline code in Markdown."""
    line = (one_line(text) or "").replace("`", "'")
    return f"`{line}`"


def fenced(text: str) -> str:
    """Text as a fenced code block, with a fence that the text cannot close."""
    lines = ["".join(c for c in line if c.isprintable()).rstrip() for line in text.strip().splitlines()]
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return "\n".join([fence, *lines, fence])


def setting(value: Any) -> str:
    """The value of a training argument for a table; absolute paths are cut to their last part."""
    value = value.value if isinstance(value, Enum) else value
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(setting(item) for item in value)
    text = str(value)
    return plain(last_part(text) if is_path(text) else without_paths(text))


def describe_floors(metrics: Sequence[str]) -> str:
    """A sentence that explains the floors of `metrics` in a table; "" without any."""
    if not metrics:
        return ""
    if list(metrics) == [FIRST]:
        return "The floor is the accuracy that needs no learning."
    return "A floor is the score that needs no learning, such as that of always answering the mean."


# A configuration in words

INNER_GROUPS = ("attention", "last_attention", "feedforward", "recurrent")  # the paper freezes them


def describe_base(config: FPTConfig) -> str:
    """The base in words: which model, at which commit, and whether its weights are pretrained."""
    kind = plain(config.base_model_config.model_type)
    name = f"a {kind} without a Hub id"
    if config.base_model is not None:
        name = f"[{plain(config.base_model)}](https://huggingface.co/{config.base_model}) ({kind})"
    facts = {"commit": config.base_model_revision, "fingerprint": config.base_model_fingerprint}
    name = ", ".join([name, *(f"{fact} {code(value)}" for fact, value in facts.items() if value)])
    if config.backbone_layers is not None:
        name += f", the first {config.backbone_layers} layers only"
    if config.base_quantization is not None:
        name += f", quantised to {'8' if 'load_in_8bit' in config.base_quantization else '4'} bits by bitsandbytes"
    if config.peft_config is not None:
        name += f", with an adapter ({plain(config.peft_config['peft_type'])}) on frozen layers"
    trained = [group for group in INNER_GROUPS if group in config.trainable]
    frozen = f"trained: {', '.join(trained)}" if trained else "frozen"
    if config.backbone_init == "pretrained":
        return f"{name}; its pretrained weights, {frozen}."
    source, drawn = "with each tensor's mean and spread from", f"drawn from seed {config.backbone_init_seed}"
    if config.backbone_init == "random":
        source = "in the shape of"
        drawn += f" by the scheme {plain(config.backbone_init_scheme)}" if config.backbone_init_scheme else ""
    return f"**random weights, not pretrained**, {source} {name}; {drawn}, {frozen}."


def hub_id(name: str) -> str:
    """`name` with "-" in place of all that a Hub id may not contain."""
    parts = [re.sub(r"[^\w.-]+|--+|\.\.+", "-", part, flags=re.ASCII).strip("-.") for part in name.split("/")]
    return "/".join(part or "model" for part in parts)
