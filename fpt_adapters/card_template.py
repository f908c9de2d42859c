"""The model card's text, as a Jinja template: facts and formats come from card.py.

A Python string, because only .py files travel with a model's code. Whatever a user named arrives escaped.
"""

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
inputs = {{ example_inputs }}
with torch.no_grad():
    print(model({{ input_name }}=inputs).{{ output_name }}.shape)  # {{ output_shape }}
```
{%- if pipeline_tag and with_processor %}

From {{ "a picture" if pipeline_tag == "image-classification" else "text" }} to labels:

```python
import fpt_adapters
{%- if pipeline_tag == "image-classification" %}
from PIL import Image
{%- endif %}
from transformers import pipeline

classify = pipeline("{{ pipeline_tag }}", model="{{ repo_id }}"{{ pipeline_arguments }})
{%- if pipeline_tag == "image-classification" %}
image = Image.new("{{ image_mode }}", ({{ image_width }}, {{ image_height }}))  # yours: Image.open("picture.png")
print(classify(image))
{%- else %}
print(classify("{{ example_text }}"))
{%- endif %}
```
{%- elif extractor_shape and with_processor %}

From values to the model's input:

```python
import fpt_adapters
import numpy as np
import torch
from transformers import {{ auto_class }}, AutoFeatureExtractor

model = {{ auto_class }}.from_pretrained("{{ repo_id }}"{{ base_argument }})
extractor = AutoFeatureExtractor.from_pretrained("{{ repo_id }}")
values = np.zeros({{ extractor_shape }}, dtype=np.float32)  # {{ extractor_axes }}
with torch.no_grad():
    print(model(**extractor([values], return_tensors="pt")).{{ output_name }})
```
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

| split | examples |{% for name in metric_names %} {{ name }} |{% endfor %} floor |{#-
#}{% if seed is not none %} seed |{% endif %}
|---|---:|{% for name in metric_names %}---:|{% endfor %}---:|{% if seed is not none %}---:|{% endif %}
{%- for row in result_rows %}
| {{ row.split }} | {{ thousands(row.examples) }} |{#-
#}{% for value in row.scores %} {{ score(value, row.examples) }} |{% endfor %}{#-
#} {{ score(row.floor, row.examples) }} |{#-
#}{% if seed is not none %} {{ seed }} |{% endif %}
{%- endfor %}

The floor is the accuracy that needs no learning.
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
