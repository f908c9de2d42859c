"""The input types by their names in a configuration. A new one is a file, and a row here."""

from .audio import AudioInput
from .columns import ColumnsInput
from .images import ImagesInput
from .input_type import InputType
from .native import NativeInput
from .series import SeriesInput
from .tokens import TokensInput
from .values import ValuesInput
from .windows import WindowsInput

INPUTS: dict[str, InputType] = {
    "values": ValuesInput(),
    "tokens": TokensInput(),
    "images": ImagesInput(),
    "series": SeriesInput(),
    "audio": AudioInput(),
    "table": ColumnsInput(),
    "windows": WindowsInput(),
    "native": NativeInput(),
}
