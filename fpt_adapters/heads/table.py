"""The heads by name. A new one is a file, a row here, and a class in modeling_fpt.py that names it."""

from .audio import AudioHead
from .forecast import ForecastHead
from .head import Head, Headless
from .image import ImageHead
from .sequence import SequenceHead
from .tokens import TokensHead

HEADS: dict[str, Head] = {
    "none": Headless(),
    "sequence": SequenceHead(),
    "image": ImageHead(),
    "audio": AudioHead(),
    "tokens": TokensHead(),
    "forecast": ForecastHead(),
}
