"""Quantising a base's frozen weights as they are loaded: what a delta says, and what transformers reads.

8 bits are LLM.int8() (Dettmers et al., arXiv 2208.07339), 4 bits those of QLoRA (arXiv 2305.14314). A delta has names
of `transformers.BitsAndBytesConfig` with values out of closed lists, and only those that change what is computed: a
stranger may have written them, and no class, module or pattern is looked up by them.
"""

from typing import Any

from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available

from .config_rules import DTYPES
from .ranges import short

# The settings that go with 8 and with 4 bits, with bitsandbytes' defaults.
SETTINGS = {
    "load_in_8bit": {"llm_int8_threshold": 6.0},
    "load_in_4bit": {
        "bnb_4bit_compute_dtype": "float32",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "fp4",
        "bnb_4bit_use_double_quant": False,
    },
}
CHOICES = {
    "bnb_4bit_compute_dtype": DTYPES,
    "bnb_4bit_quant_storage": ("uint8", *DTYPES),
    "bnb_4bit_quant_type": ("fp4", "nf4"),
    "bnb_4bit_use_double_quant": (False, True),
}
MOST_THRESHOLD = 10**4  # the largest threshold for outlier activations; 6 is usual


def checked_quantization(values: dict[str, Any]) -> dict[str, Any]:
    """Return the checked settings in full: `load_in_8bit` or `load_in_4bit`, and all that goes with it.

    Raises ValueError for anything but 8 or 4 bits, for a name that does not go with them, and for a value that is not
    one of its choices.
    """
    widths = [name for name in SETTINGS if values.get(name) is True]
    if len(widths) != 1:
        raise ValueError(f"A base is quantised by load_in_8bit=True or by load_in_4bit=True; got {short(values)}.")
    settings = {widths[0]: True} | SETTINGS[widths[0]]
    for name, value in values.items():
        if name in settings:
            _check_setting(name, value)
            settings[name] = value
        elif value is not False or name not in SETTINGS:
            raise ValueError(
                f"{widths[0]} goes with {', '.join(SETTINGS[widths[0]])}; got {name!s:.60}={short(value)}: leave it "
                "out."
            )
    return settings


def _check_setting(name: str, value: Any) -> None:
    if name == "llm_int8_threshold":
        if type(value) not in (int, float) or not 0 <= value <= MOST_THRESHOLD:
            raise ValueError(f"{name} is a number from 0 to {MOST_THRESHOLD}; got {short(value)}.")
    elif name in CHOICES and (type(value), value) not in [(type(choice), choice) for choice in CHOICES[name]]:
        raise ValueError(f"{name} is one of {', '.join(map(str, CHOICES[name]))}; got {short(value)}.")


def settings_of(quantization_config: BitsAndBytesConfig | dict[str, Any]) -> dict[str, Any]:
    """Return the checked settings of transformers' quantisation config, or of a dict with its names.

    Raises ValueError for another method than bitsandbytes, and for a setting that no delta can name.
    """
    if isinstance(quantization_config, dict):
        values = {name: value for name, value in quantization_config.items() if name != "quant_method"}
        method = quantization_config.get("quant_method", "bitsandbytes")
    else:
        values = quantization_config.to_diff_dict()
        method = getattr(quantization_config.quant_method, "value", quantization_config.quant_method)
    if method != "bitsandbytes":
        raise ValueError(
            f"quantization_config is a transformers.BitsAndBytesConfig, with load_in_8bit or load_in_4bit; got the "
            f"method {short(method)}: quantise with bitsandbytes, or write dtype='bfloat16'."
        )
    return checked_quantization({name: value for name, value in values.items() if not name.startswith("_")})


def bitsandbytes_config(settings: dict[str, Any]) -> BitsAndBytesConfig:
    """Build transformers' config from checked `settings`. Raises ImportError without bitsandbytes."""
    if not is_bitsandbytes_available():
        width = "8" if "load_in_8bit" in settings else "4"
        raise ImportError(
            f"The base is to be quantised to {width} bits, which needs bitsandbytes: pip install "
            "'fpt_adapters[quantized]', or write quantization_config=False for the base as it is stored."
        )
    threshold = {name: float(settings[name]) for name in ("llm_int8_threshold",) if name in settings}
    return BitsAndBytesConfig(**settings | threshold)
