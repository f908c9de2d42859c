"""The paper's tasks, and scikit-learn's digits, by name."""

from ..data.splits import SPLITS
from .bits import BitMemory, BitXor
from .digits import Digits
from .files import FileArguments
from .images import Cifar10, Cifar10Lra, Mnist
from .listops import ListOps
from .proteins import RemoteHomology
from .task import Task, TaskData

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (BitMemory, BitXor, ListOps, Mnist, Cifar10, Cifar10Lra, RemoteHomology, Digits)
}

__all__ = [
    "SPLITS",
    "TASKS",
    "BitMemory",
    "BitXor",
    "Cifar10",
    "Cifar10Lra",
    "Digits",
    "FileArguments",
    "ListOps",
    "Mnist",
    "RemoteHomology",
    "Task",
    "TaskData",
]
