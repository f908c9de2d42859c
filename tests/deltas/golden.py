"""Golden deltas: what a version of the library wrote, kept for good; every later one must load it to the bit.

    python tests/deltas/golden.py format-1

writes, with the library that Python finds, a folder beside this file: one tiny delta for each kind of backbone, with
inputs and the logits that they gave. `golden/bases` has the random bases, which are made where they are missing.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING, AutoModel

import fpt_adapters

GOLDEN = Path(__file__).parent / "golden"
SMALL = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
TEXT = SMALL | {"vocab_size": 11, "max_position_embeddings": 16}
BASES = {
    "gpt2": {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 11}
    | {"bos_token_id": 1, "eos_token_id": 1},
    "bert": TEXT,
    "albert": TEXT | {"embedding_size": 4},
    "llama": TEXT | {"num_key_value_heads": 1},
    "t5": {"d_model": 8, "d_kv": 4, "num_layers": 2, "num_heads": 2, "d_ff": 12, "vocab_size": 11},
    "vit": SMALL | {"image_size": 8, "patch_size": 4},
    "fpt_lstm": {"hidden_size": 8, "num_hidden_layers": 2},
}
VALUES = {"input_type": "values", "input_size": 3, "sequence_length": 6}
TOKENS = {"input_type": "tokens", "vocab_size": 9, "sequence_length": 6, "pad_token_id": 0}
IMAGES = {"input_type": "images", "image_size": 8, "num_channels": 1, "patch_size": 4}
SERIES = {"input_type": "series", "series_length": 12, "num_channels": 2, "patch_length": 4, "patch_stride": 2}
LORA = {"peft_config": {"peft_type": "lora", "r": 2, "init_lora_weights": False}}
KINDS = {  # name: base, model class, fields
    "gpt2-values": ("gpt2", "FPTForSequenceClassification", VALUES),
    "gpt2-tokens-of-each": ("gpt2", "FPTForTokenClassification", VALUES | {"labels_per_token": 2, "positions": "new"}),
    "gpt2-lora": ("gpt2", "FPTForSequenceClassification", VALUES | LORA),
    "gpt2-attention": ("gpt2", "FPTForSequenceClassification", VALUES | {"trainable": ["output", "attention"]}),
    "bert-tokens": ("bert", "FPTForSequenceClassification", TOKENS),
    "bert-headless": ("bert", "FPTModel", TOKENS),
    "albert-images": ("albert", "FPTForImageClassification", IMAGES),
    "llama-series": ("llama", "FPTForSequenceClassification", SERIES),
    "t5-values": ("t5", "FPTForSequenceClassification", VALUES | {"num_labels": 1}),
    "vit-images": ("vit", "FPTForImageClassification", IMAGES),
    "lstm-values": ("fpt_lstm", "FPTForSequenceClassification", VALUES | {"trainable": ["recurrent", "output"]}),
}


def examples(input_type: str) -> dict[str, torch.Tensor]:
    """Two inputs of a type, the same in every version."""
    if input_type == "tokens":
        return {"input_ids": torch.tensor([[1, 2, 3, 4, 5, 6], [8, 7, 6, 5, 0, 0]])}
    shape = {"images": (2, 1, 8, 8), "series": (2, 12, 2), "values": (2, 6, 3)}[input_type]
    count = torch.Size(shape).numel()
    name = "pixel_values" if input_type == "images" else "input_values"
    return {name: (torch.arange(count, dtype=torch.float32) % 7 / 7 - 0.4).reshape(shape)}


def write(version: str) -> None:
    """Write the golden deltas of this library's version."""
    for base, fields in BASES.items():
        if not (GOLDEN / "bases" / base).exists():
            torch.manual_seed(0)
            AutoModel.from_config(CONFIG_MAPPING[base](**fields)).save_pretrained(GOLDEN / "bases" / base)
    for number, (kind, (base, class_name, fields)) in enumerate(KINDS.items()):
        torch.manual_seed(number)
        model_class = getattr(fpt_adapters, class_name)
        labels = {} if class_name == "FPTModel" else {"num_labels": 3}
        model = model_class.from_backbone(str(GOLDEN / "bases" / base), **labels | fields).eval()
        with torch.no_grad():
            for parameter in [parameter for parameter in model.parameters() if parameter.requires_grad]:
                parameter.add_(torch.randn(parameter.shape), alpha=0.1)
            inputs = examples(model.config.input_type)
            expected = model(**inputs)[0]
        model.save_pretrained(GOLDEN / version / kind)
        trained = {f"trained.{name}": t.detach().clone() for name, t in model.delta_tensors().items()}
        save_file(inputs | {"expected": expected} | trained, GOLDEN / version / kind / "expected.safetensors")


if __name__ == "__main__":
    write(sys.argv[1])
