"""The tasks by name: the paper's, scikit-learn's digits, and those on rows of one's own."""

from ..data.splits import SPLITS
from .audio_classification import AudioClassification
from .bits import BitMemory, BitXor
from .digits import Digits
from .files import FileArguments
from .forecasting import TimeSeriesForecasting
from .image_classification import ImageClassification
from .images import Cifar10, Cifar10Lra, Mnist
from .listops import ListOps
from .proteins import RemoteHomology
from .symbols import SequenceClassification
from .tabular import TabularClassification, TabularRegression
from .task import Task, TaskData
from .text import TextClassification
from .time_series import TimeSeriesClassification, TimeSeriesRegression
from .words import TokenClassification

PAPER_TASKS = (BitMemory, BitXor, ListOps, Mnist, Cifar10, Cifar10Lra, RemoteHomology, Digits)
OWN_DATA = (
    TextClassification,
    TokenClassification,
    SequenceClassification,
    ImageClassification,
    AudioClassification,
    TabularClassification,
    TabularRegression,
    TimeSeriesClassification,
    TimeSeriesRegression,
    TimeSeriesForecasting,
)  # named as the Hub names what a model does
TASKS: dict[str, type[Task]] = {task.name: task for task in (*PAPER_TASKS, *OWN_DATA)}

__all__ = [
    "SPLITS",
    "TASKS",
    "AudioClassification",
    "BitMemory",
    "BitXor",
    "Cifar10",
    "Cifar10Lra",
    "Digits",
    "FileArguments",
    "ImageClassification",
    "ListOps",
    "Mnist",
    "RemoteHomology",
    "SequenceClassification",
    "TabularClassification",
    "TabularRegression",
    "Task",
    "TaskData",
    "TextClassification",
    "TimeSeriesClassification",
    "TimeSeriesForecasting",
    "TimeSeriesRegression",
    "TokenClassification",
]
