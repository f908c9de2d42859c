"""The input types by what a configuration calls them. A new one is a file, and a row here."""

from .images import ImagesInput
from .input_type import InputType
from .native import NativeInput
from .series import SeriesInput
from .tokens import TokensInput
from .values import ValuesInput

INPUTS: dict[str, InputType] = {
    "values": ValuesInput(),
    "tokens": TokensInput(),
    "images": ImagesInput(),
    "series": SeriesInput(),
    "native": NativeInput(),
}
