"""Cases that go wrong, each in its way, for benchmarks/gpu.py; used by test_gpu_benchmark.py."""

import os
import signal
import time

from gpu_parts.cases import Case
from gpu_parts.setting import Skipped


def good(setting):
    return {"process": os.getpid()}


def wrong(setting):
    return {"passed": False}


def unable(setting):
    raise Skipped("there is none here")


def raises(setting):
    raise ZeroDivisionError("of the case itself")


def dies(setting):
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(setting):
    time.sleep(600)


def case(name, function, seconds=60.0, **fields):
    return Case(name, f"gpu_cases:{function.__name__}", seconds, **fields)


FAULTS = [
    case("part/good", good),
    case("part/wrong", wrong),
    case("part/unable", unable),
    case("part/same", good),
    case("part/raises", raises),
    case("part/new", good),
    case("part/dies", dies),
    case("part/hangs", hangs, 1.0),
    case("part/long", good, 6000.0),
    case("part/last", good),
]
HANGING = [case("part/good", good), case("part/hangs", hangs)]
VITAL = [case("machine/card", raises, vital=True), case("part/good", good)]
