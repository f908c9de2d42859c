"""Mutations of the files of a delta: bytes, the header of the weights, fields of configurations and of processors.

All draw from a seeded `random.Random`. A mutation returns the files anew; those it was given stay as they were.
"""

import copy
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from conftest import signed

from fpt_adapters import FPTConfig
from fpt_adapters.configuration_fpt import TRANSFORMERS_KEYS
from fpt_adapters.deltas.file import CONFIG_KEY, CONFIG_TEXT_KEY, DIGESTS_KEY

CONFIG, WEIGHTS = "config.json", "model.safetensors"
Files = dict[str, bytes]


@dataclass(frozen=True)
class Raw:
    """JSON that Python's own writer does not make."""

    text: str


def deep(levels: int) -> Raw:
    return Raw('{"x":' * levels + "1" + "}" * levels)


MANY = range(30_000)
VALUES = [None, True, False, 0, 1, -1, 2, 3, 7, 8, 16, 64, 512, 2**15, 2**20, 2**24, 2**31, 2**63, 2**64, -(10**30)]
VALUES += [10**400, Raw("1" * 5000), 0.5, -0.5, 1.0, 1e308, 1e-320, math.nan, math.inf, -math.inf, Raw("1e999")]
VALUES += ["", "x", "\0", "a/b", "../..", "/etc/passwd", "https://evil/x", "\ud800", "\u202e\x1b[2J", "x" * 10**5]
VALUES += ["none", "new", "mean", "first", "random", "pretrained", "statistics", "images", "tokens", "series"]
VALUES += ["values", "float64", "bfloat16", "torch.float16", "gpt2", "bert", "vit", "llama", "lora", "ia3", "eager"]
VALUES += ["regression", [], {}, [[]], [None], [{}], {"": None}, {"a": 1}, {"0": "a"}, {"a": 0}, ["norm"]]
VALUES += [["input", "output"], [1, 2], [0] * len(MANY), ["x"] * len(MANY), list(MANY), [[n] for n in MANY]]
VALUES += [{str(n): n for n in MANY}, {str(n): str(n) for n in MANY}, {str(n): n % 2 for n in range(5)}]
VALUES += [{f"a{n}": n for n in MANY}, Raw("[" * 9 + "1" + "]" * 9), deep(240), deep(900)]
VALUES += [Raw("[" * 10**5 + "]" * 10**5), deep(10**5), {"peft_type": "lora"}, {"model_type": "gpt2"}]
VALUES += [{"peft_type": "lora", "r": 2, "target_modules": ["c_attn"]}, {"model_type": "bert", "hidden_size": 32}]
VALUES += [{"load_in_8bit": True}, {"load_in_4bit": True}, "a" * 40, "sha256:" + "0" * 64]
NAMES = ["", "x", "__class__", "_x", "configuration_files", "quantization_config", "\ud800", "n" * 10**4]
NAMES += ["hidden_size"]


def json_text(value: Any) -> str:
    """JSON of a value with `Raw` ones anywhere in it."""
    raw: list[str] = []

    def mark(value: Raw) -> str:
        raw.append(value.text)
        return f"\0raw {len(raw) - 1}\0"

    text = json.dumps(value, default=mark)
    for number, one in enumerate(raw):
        text = text.replace(json.dumps(f"\0raw {number}\0"), one)
    return text


def read_header(weights: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and what follows it."""
    length = int.from_bytes(weights[:8], "little")
    return json.loads(weights[8 : 8 + length]), weights[8 + length :]


def with_header(text: str, body: bytes) -> bytes:
    """A safetensors file."""
    header = text.encode("utf-8", "surrogatepass")
    return len(header).to_bytes(8, "little") + header + body


# Bytes


def mutate_bytes(data: bytes, draws: random.Random) -> bytes:
    """Flip bits, cut, or swap, double, drop or overwrite a range; half of them at the start, where headers are."""
    kind = draws.choice(("flip", "flip", "flip", "cut", "swap", "double", "drop", "fill", "text"))
    size = len(data) if draws.random() < 0.5 else min(len(data), 3000)
    start, length = draws.randrange(size), draws.choice((1, 2, 4, 8, 100))
    changed = bytearray(data)
    if kind == "flip":
        for _ in range(draws.choice((1, 1, 1, 2, 8))):
            changed[draws.randrange(size)] ^= 1 << draws.randrange(8)
    elif kind == "cut":
        del changed[start:]
    elif kind == "swap":
        other = draws.randrange(size)
        changed[start : start + length], changed[other : other + length] = (
            changed[other : other + length],
            changed[start : start + length],
        )
    elif kind == "double":
        changed[start:start] = changed[start : start + length]
    elif kind == "drop":
        del changed[start : start + length]
    elif kind == "fill":
        changed[start : start + length] = bytes([draws.choice((0, 255))]) * length
    else:
        changed[start : start + 1] = draws.choice((b"0", b"9", b"-", b'"', b",", b"]", b"}", b"\\", b"\xff", b"e9"))
    return bytes(changed)


# The header of the weights


def mutate_header(weights: bytes, draws: random.Random) -> bytes:
    """Change an entry of the header: a tensor's dtype, shape, place or name, or the metadata."""
    header, body = read_header(weights)
    name = draws.choice([name for name in header if name != "__metadata__"])
    kinds = ("dtype", "shape", "shape", "data_offsets", "rename", "drop", "swap", "twice", "metadata", "add")
    kind = draws.choice(kinds)
    if kind == "dtype":
        header[name]["dtype"] = draws.choice(("F64", "F16", "BF16", "I32", "U8", "BOOL", "EVIL", 5, None, []))
    elif kind == "shape":
        shape = list(header[name]["shape"])
        others = (shape[::-1], [*shape, 1], [0, *shape], [math.prod(shape)], draws.choice(VALUES))
        header[name]["shape"] = draws.choice(others)
    elif kind == "data_offsets":
        first, last = header[name]["data_offsets"]
        moved = draws.choice((-4, 4, 10**9, -(2**63)))
        others = ([first, last + moved], [first + moved, last], [last, first], draws.choice(VALUES))
        header[name]["data_offsets"] = draws.choice(others)
    elif kind == "rename":
        other = draws.choice(("backbone.other.0", "head.weight", name + ".x", "", "\ud800", "x" * 10**5))
        header[other] = header.pop(name)
    elif kind == "drop":
        del header[name]
    elif kind == "swap":
        other = draws.choice([other for other in header if other != "__metadata__"])
        header[name], header[other] = header[other], header[name]
    elif kind == "metadata":
        key = draws.choice((DIGESTS_KEY, CONFIG_KEY, CONFIG_TEXT_KEY, "format", "x"))
        others = ("", "0", "0,0", "{}", "[]", "null", "x" * 10**5, draws.choice(VALUES))
        header["__metadata__"][key] = draws.choice(others)
    elif kind == "add":
        header[draws.choice(NAMES)] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = json_text(header)
    if kind == "twice":
        text = f"{text[:-1]}, {json.dumps(name)}: {json_text(header[draws.choice(list(header))])}}}"
    return with_header(text, body)


# Configurations


def places(values: Any, found: tuple = ()) -> Iterator[tuple]:
    """The path of every value inside dicts and lists."""
    inside = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for name, value in inside:
        yield (*found, name)
        if len(found) < 8:
            yield from places(value, (*found, name))


def mutate_fields(values: dict[str, Any], draws: random.Random, known: tuple[str, ...] = ()) -> str:
    """The JSON of `values` with one to three fields set, removed, added (also `known` ones), renamed or doubled."""
    values = json.loads(json.dumps(values))
    for _ in range(draws.choice((1, 1, 1, 2, 3))):
        path = draws.choice(list(places(values)) or [("x",)])
        if known and draws.random() < 0.4:
            path = (draws.choice(known),)
        *outer, last = path
        inside = values
        for name in outer:
            inside = inside[name]
        kind = draws.choice(("set", "set", "set", "set", "drop", "add", "take"))
        value = copy.deepcopy(draws.choice(VALUES))
        if kind == "set" or not isinstance(inside, dict):
            inside[last] = value
        elif kind == "drop":
            inside.pop(last, None)
        elif kind == "add":
            inside[draws.choice(NAMES)] = value
        else:  # what another field has
            inside[last] = copy.deepcopy(draws.choice(list(values.values())))
    text = json_text(values)
    if draws.random() < 0.1:
        text = f"{text[:-1]}, {json.dumps(draws.choice(list(values)))}: {json_text(draws.choice(VALUES))}}}"
    if draws.random() < 0.03:
        text = json_text(draws.choice(VALUES))
    return text


KNOWN = (*FPTConfig.own_fields(), *sorted(TRANSFORMERS_KEYS), "id2label", "label2id", "dtype", "architectures")


def with_metadata(weights: bytes, key: str, text: str | None) -> bytes:
    """The weights with another entry of the metadata (None: without it)."""
    header, body = read_header(weights)
    header["__metadata__"] |= {key: text}
    if text is None:
        del header["__metadata__"][key]
    return with_header(json_text(header), body)


def resign(files: Files, change: Callable[[dict], None] | None = None) -> Files | None:
    """The files with digests that fit, of the configuration in config.json; None where nobody could make them."""
    try:
        weights = signed(files[WEIGHTS], json.loads(files[CONFIG]), change)
        if CONFIG_TEXT_KEY not in read_header(files[WEIGHTS])[0]["__metadata__"]:
            weights = with_metadata(weights, CONFIG_TEXT_KEY, None)
    except Exception:  # whatever a reader says of what is mutated
        return None
    return files | {WEIGHTS: weights}


def spoil_tensor(draws: random.Random) -> Callable[[dict], None]:
    """A change of one tensor's values, dtype or shape."""

    def change(tensors: dict) -> None:
        name = draws.choice(sorted(tensors))
        kind, tensor = draws.randrange(5), tensors[name]
        if kind == 0:
            tensor.view(-1)[draws.randrange(tensor.numel())] = draws.choice((math.nan, math.inf, 3e38, 0.0, -1.0))
        elif kind == 1:
            tensors[name] = tensor.double() if draws.random() < 0.5 else tensor.int()
        elif kind == 2:
            tensors[name] = tensor[..., :-1].contiguous()
        elif kind == 3:
            tensors[draws.choice(NAMES)] = tensors.pop(name)
        else:
            tensors[name] = tensor.flip(0).contiguous()

    return change


def mutate(files: Files, draws: random.Random) -> tuple[str, Files, bool]:
    """What was mutated, the files, and whether their digests fit."""
    kinds = ["weights"] * 2 + ["header"] * 2 + ["config"] * 2 + ["text"] + ["fields"] * 3 + ["tensor"]
    what = draws.choice(kinds)
    if what == "weights":
        return what, files | {WEIGHTS: mutate_bytes(files[WEIGHTS], draws)}, False
    if what == "config":
        return what, files | {CONFIG: mutate_bytes(files[CONFIG], draws)}, False
    if what == "header":
        files = files | {WEIGHTS: mutate_header(files[WEIGHTS], draws)}
        again = resign(files) if draws.random() < 0.5 else None
        return what, again or files, again is not None
    if what == "tensor":
        again = resign(files, spoil_tensor(draws))
        return what, again or files, again is not None
    values = mutate_fields(json.loads(files[CONFIG]), draws, KNOWN)
    edited = {CONFIG: values.encode("utf-8", "surrogatepass")}
    told = {WEIGHTS: with_metadata(files[WEIGHTS], CONFIG_TEXT_KEY, values)}
    if what == "text":  # in only one of the two copies
        beside = draws.random() < 0.5 or CONFIG_TEXT_KEY not in read_header(files[WEIGHTS])[0]["__metadata__"]
        return what, files | (edited if beside else told), False
    return what, resign(files | edited) or files | edited | told, True  # nested too deep to be signed: both
