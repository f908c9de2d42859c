"""The heads by name. A new one is a file, a row here, and a class in modeling_fpt.py that names it."""

from .forecast import ForecastHead
from .head import Head, Headless
from .sequence import AudioHead, ImageHead, SequenceHead
from .tokens import TokensHead

HEADS: dict[str, Head] = {
    "none": Headless(),
    "sequence": SequenceHead(),
    "image": ImageHead(),
    "audio": AudioHead(),
    "tokens": TokensHead(),
    "forecast": ForecastHead(),
}
