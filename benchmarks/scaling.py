"""Estimated memory and time of a training step on backbones of 7 B and 70 B, on 1 to 64 GPUs, from formulas.

    python benchmarks/scaling.py

prints the tables of SCALING.md. Nothing here was run on such hardware; `Hardware` has the assumptions about it.
`python benchmarks/scaling_check.py` compares the same formulas with measurements.

What is special about a frozen backbone: its weights have no gradient and no optimizer state. A frozen linear layer
keeps no input, because only the weight's gradient would need it. Backward costs one product per layer, not two. And
only the gradients of trained parameters are sent between processes.
"""

from collections.abc import Callable
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Hardware:
    """The assumed machine: 80 GB GPUs of the H100 class, eight of them in a node."""

    memory: float = 80e9  # bytes of a GPU
    usable: float = 0.92  # share of it for tensors; the rest is CUDA's context, libraries and fragmentation
    bf16_rate: float = 989e12  # dense FLOP/s by the data sheet
    utilisation: float = 0.4  # share of that rate that large products of a real model reach
    memory_bandwidth: float = 3.35e12  # bytes/s between a GPU and its memory
    node: int = 8  # GPUs in a node
    link_in_node: float = 450e9  # bytes/s of a GPU to the others of its node, one way
    link_between: float = 50e9  # bytes/s of a GPU to other nodes (400 Gbit/s); a collective uses all of a node's


@dataclass(frozen=True)
class Shape:
    """A backbone's sizes. `family` decides what its layers keep for the backward pass, see `kept_bytes`."""

    family: str
    layers: int
    hidden: int
    inner: int  # of the feed-forward
    heads: int
    kv_heads: int
    vocabulary: int = 0
    positions: int = 0  # rows of a learned table, before it is cut

    @property
    def kv_hidden(self) -> int:
        """The width of keys and of values."""
        return self.hidden // self.heads * self.kv_heads

    @property
    def linear(self) -> int:
        """The number of weights of all linear layers, which can be quantised."""
        projections = 2 * self.hidden * self.hidden + 2 * self.hidden * self.kv_hidden
        return self.layers * (projections + (3 if self.family == "llama" else 2) * self.hidden * self.inner)

    @property
    def norms(self) -> int:
        """The number of weights and biases of all norms."""
        count = 2 * self.layers + 1  # BERT's extra norm is after the embeddings, the others' after the layers
        return count * self.hidden * (1 if self.family == "llama" else 2)

    @property
    def biases(self) -> int:
        """The number of biases of all linear layers."""
        per_layer = 0 if self.family == "llama" else 3 * self.hidden + self.hidden + self.inner + self.hidden
        return self.layers * per_layer

    @property
    def frozen(self) -> int:
        """The number of frozen weights; token embeddings are loaded with the rest, though nothing uses them here."""
        return self.linear + self.biases + self.vocabulary * self.hidden


@dataclass(frozen=True)
class Step:
    """What one GPU computes in a step."""

    batch: int
    tokens: int
    token_size: int = 48  # numbers of an input token
    labels: int = 10
    checkpointing: bool = False

    @property
    def total(self) -> int:
        """The number of tokens in the batch."""
        return self.batch * self.tokens


# Llama-2's shapes.
BACKBONES = {
    "7 B": Shape("llama", 32, 4096, 11008, 32, 32, 32000),
    "70 B": Shape("llama", 80, 8192, 28672, 64, 8, 32000),
}
# Bytes of a frozen linear weight; 4 bits need one fp32 scale for 64 of them, 8 bits one for a row (not counted).
PRECISIONS = {"fp32": 4.0, "bf16": 2.0, "8 bits": 1.0, "4 bits": 0.5 + 4 / 64}
COUNTS = (1, 2, 4, 8, 16, 32, 64)
STEPS = [("7 B", 8, False), ("7 B", 8, True), ("70 B", 8, True), ("70 B", 1, True)]  # sequences of 512, checkpointed


def trained_parameters(shape: Shape, step: Step) -> int:
    """The number of parameters in the paper's groups: input, norms, positions of the tokens in use, head."""
    new = (step.token_size + 1) * shape.hidden + (shape.hidden + 1) * step.labels
    return new + shape.norms + step.tokens * shape.hidden


def weight_bytes(shape: Shape, precision: str) -> float:
    """Bytes of all frozen weights; in a quantised backbone, the weights that cannot be quantised are bf16."""
    rest = 4 if precision == "fp32" else 2
    return shape.linear * PRECISIONS[precision] + (shape.frozen - shape.linear) * rest


def training_bytes(shape: Shape, step: Step) -> int:
    """Bytes of the trained weights, their gradients and Adam's two moments, all in fp32."""
    return 16 * trained_parameters(shape, step)


def kept_bytes(shape: Shape, width: int = 2) -> int:
    """Bytes that a layer keeps per token for the backward pass, if attention does not keep its matrix.

    `width`: bytes of a linear layer's output number: 2 under autocast, 4 in fp32. The residual stream is fp32.
    """
    hidden, inner = shape.hidden, shape.inner
    attention = width * 2 * (hidden + shape.kv_hidden) + 4 * shape.heads  # queries, output; keys, values; log-sums
    if shape.family == "llama":  # two RMS norms: input, and the normalised that the weight multiplies; gated SiLU
        return attention + 2 * (2 * 4 * hidden + 4) + 3 * width * inner
    norms = 2 * (4 * hidden + 8)  # two layer norms: input, mean and deviation
    return attention + norms + width * inner


def working_bytes(shape: Shape, width: int = 2) -> int:
    """Further bytes per token while a layer runs backward: gradients of its widest products."""
    return 4 * shape.hidden + 3 * width * shape.inner


def activation_bytes(shape: Shape, step: Step, width: int = 2, gpus: int = 1) -> float:
    """Bytes of activations on a GPU that runs one of `gpus` parts of the layers.

    With checkpointing, it keeps each layer's input, and everything of the one layer that is being recomputed.
    """
    layer, layers = kept_bytes(shape, width), shape.layers / gpus
    kept = layers * 4 * shape.hidden + layer if step.checkpointing else layers * layer
    return step.total * (kept + working_bytes(shape, width))


def step_flops(shape: Shape, step: Step) -> float:
    """FLOPs of a step: per weight and token two forward, two backward (the input's gradient), two to recompute.

    When torch recomputes a layer, it leaves out the end that nothing needs: the feed-forward's last product, unless a
    norm follows it (BERT).
    """
    again = shape.linear - (0 if shape.family == "bert" else shape.layers * shape.hidden * shape.inner)
    products = 4 * shape.linear + (2 * again if step.checkpointing else 0)
    attention = 4 * step.tokens * shape.hidden * shape.layers  # forward: scores, and values by them
    return step.total * (products + attention * (4 if step.checkpointing else 3))


def compute_seconds(shape: Shape, step: Step, precision: str, machine: Hardware) -> float:
    """Seconds of the products at the assumed rate; quantised weights are first expanded to bf16 in every pass."""
    seconds = step_flops(shape, step) / (machine.bf16_rate * machine.utilisation)
    if precision in ("8 bits", "4 bits"):
        passes = 3 if step.checkpointing else 2
        seconds += passes * shape.linear * (PRECISIONS[precision] + 4) / machine.memory_bandwidth
    return seconds


def link(gpus: int, machine: Hardware) -> float:
    """Bytes per second of a collective operation of `gpus` processes, at its slowest link."""
    between = machine.node * machine.link_between
    return machine.link_in_node if gpus <= machine.node else min(machine.link_in_node, between)


def ddp(shape: Shape, step: Step, precision: str, gpus: int, machine: Hardware) -> tuple[float, float]:
    """DDP, a whole copy on each GPU: bytes on a GPU, seconds of a step. Gradients are summed after backward."""
    held = weight_bytes(shape, precision) + training_bytes(shape, step) + activation_bytes(shape, step)
    gradients = 2 * (gpus - 1) / gpus * 4 * trained_parameters(shape, step)
    return held, compute_seconds(shape, step, precision, machine) + gradients / link(gpus, machine)


def fsdp(shape: Shape, step: Step, gpus: int, machine: Hardware) -> tuple[float, float]:
    """FSDP, bf16 weights in shards: each layer is gathered, forward and backward, while the one before it runs."""
    weights = weight_bytes(shape, "bf16")
    gathered = 2 * 2 * shape.linear / shape.layers  # a layer that runs, and the next one
    held = weights / gpus + gathered + training_bytes(shape, step) / gpus + activation_bytes(shape, step)
    travel = (2 * weights + 8 * trained_parameters(shape, step)) * (gpus - 1) / gpus / link(gpus, machine)
    return held, max(compute_seconds(shape, step, "bf16", machine), travel)


def spread(shape: Shape, step: Step, precision: str, gpus: int, machine: Hardware) -> tuple[float, float]:
    """`device_map="auto"`: layers spread over all GPUs, with their activations; only one GPU computes at a time."""
    held = weight_bytes(shape, precision) / gpus + activation_bytes(shape, step, gpus=gpus)
    held += training_bytes(shape, step)  # of the first, which also has input and head
    hops = 2 * (gpus - 1) * 4 * shape.hidden * step.total / link(gpus, machine)
    return held, compute_seconds(shape, step, precision, machine) + hops


def fits(held: float, machine: Hardware) -> bool:
    """Whether `held` bytes fit on a GPU."""
    return held <= machine.usable * machine.memory


def memory_table(step: Step) -> None:
    """Print the memory of a GPU that has the whole backbone."""
    columns = ["weights", "trained x 16 bytes", "activations", "checkpointed", "in all", "in all, checkpointed"]
    row("backbone", "frozen in", *columns)
    row(*["---"] * 8)
    for name, shape in BACKBONES.items():
        for precision in ("bf16", "8 bits", "4 bits"):
            weights, trained = weight_bytes(shape, precision), training_bytes(shape, step)
            kept = [activation_bytes(shape, Step(step.batch, step.tokens, checkpointing=on)) for on in (False, True)]
            totals = [weights + trained + one for one in kept]
            row(name, precision, *(f"{size / GIB:.2f}" for size in (weights, trained, *kept, *totals)))


def step_table(name: str, shape: Shape, step: Step, machine: Hardware) -> None:
    """Print, for each method and number of GPUs, GiB on a GPU, seconds of a step, and all GPUs' tokens per second."""
    ways: dict[str, Callable[[int], tuple[float, float]]] = {
        **{f"DDP, {p}": (lambda n, p=p: ddp(shape, step, p, n, machine)) for p in ("bf16", "8 bits", "4 bits")},
        "FSDP2, bf16": lambda n: fsdp(shape, step, n, machine),
        'device_map="auto", bf16': lambda n: spread(shape, step, "bf16", n, machine),
    }
    row(name, *(f"{count} GPU{'s' if count > 1 else ''}" for count in COUNTS))
    row(*["---"] * (1 + len(COUNTS)))
    for way, cost in ways.items():
        copies, most = (False, machine.node) if way.startswith("device_map") else (True, COUNTS[-1])
        least = 1 if way.startswith("DDP") else 2
        row(
            way,
            *(cell(cost(n), step.total * (n if copies else 1), machine) if least <= n <= most else "" for n in COUNTS),
        )


def cell(cost: tuple[float, float], tokens: int, machine: Hardware) -> str:
    """One cell: GiB on a GPU and, if they fit, seconds of a step and thousands of tokens per second."""
    held, seconds = cost
    if not fits(held, machine):
        return f"{held / GIB:.0f} GiB: no"
    return f"{held / GIB:.0f} GiB, {seconds:.2f} s, {tokens / seconds / 1e3:,.1f} k/s"


def row(*cells: str) -> None:
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Print the tables."""
    machine = Hardware()
    print(machine)
    for name, shape in BACKBONES.items():
        step = Step(8, 512)
        count, size = trained_parameters(shape, step), shape.frozen + shape.norms
        print(f"\n{name}: {size:,} parameters, {count:,} trained, a delta of {4 * count / 1e6:.1f} MB")
    print("\nGiB on a GPU that has the whole backbone, 8 x 512 tokens\n")
    memory_table(Step(8, 512))
    for name, batch, checkpointing in STEPS:
        print(f"\n{name}, {batch} x 512 tokens a step on each GPU{', checkpointed' if checkpointing else ''}\n")
        step_table(name, BACKBONES[name], Step(batch, 512, checkpointing=checkpointing), machine)


if __name__ == "__main__":
    main()
