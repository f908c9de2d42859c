"""Train with torch alone: `fully_shard` over two processes, or one process; used by test_sharded.py.

torchrun --nproc-per-node 2 fully_sharded.py FOLDER
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from transformers import GPT2Config

from fpt_adapters import FPTForSequenceClassification

STEPS, EXAMPLES = 4, 8


def build_model() -> FPTForSequenceClassification:
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, vocab_size=100, bos_token_id=1, eos_token_id=1)
    fields = {"input_type": "values", "input_size": 3, "sequence_length": 10, "num_labels": 4}
    fields |= {"input_dropout": 0.0, "backbone_dropout": 0.0}
    return FPTForSequenceClassification.from_backbone(config, backbone_init="random", **fields)


def examples() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(EXAMPLES, 10, 3, generator=generator), torch.randint(4, (EXAMPLES,), generator=generator)


def train(model: FPTForSequenceClassification, rank: int = 0, processes: int = 1) -> list[float]:
    """Each process takes its share of the batch; the losses are the means over all."""
    values, labels = (tensor.chunk(processes)[rank] for tensor in examples())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
    losses = []
    for _ in range(STEPS):
        loss = model(input_values=values, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach().clone()
        if processes > 1:
            dist.all_reduce(mean)
        losses.append(mean.item() / processes)
    return losses


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()
    model = build_model()
    for layer in model.fpt.backbone.h:
        fully_shard(layer)
    fully_shard(model)
    record = {"losses": train(model, rank, processes)}
    with torch.no_grad():
        record["logits"] = model(input_values=examples()[0]).logits.tolist()
    try:
        model.save_pretrained(folder / "ungathered")
    except ValueError as error:
        record["refused"] = str(error)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    model.save_pretrained(folder / "saved", rank == 0, state_dict=get_model_state_dict(model, options=options))
    (folder / f"rank{rank}.json").write_text(json.dumps(record))
    dist.destroy_process_group()
    os._exit(0)  # the mesh keeps gloo's threads, which would abort a process that finishes before them


if __name__ == "__main__":
    main(Path(sys.argv[1]))
