"""Train with torch alone: `fully_shard` over two processes, or one process; used by test_sharded.py."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from conftest import sequences, tiny_model
from runs import NO_DROPOUT, RANK, write_record
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from transformers import default_data_collator

STEPS, EXAMPLES = 4, 8


def build_model():
    torch.manual_seed(0)
    return tiny_model("gpt2", **NO_DROPOUT)


def examples():
    return default_data_collator(sequences(EXAMPLES))


def train(model, processes=1):
    """Each process takes its share of the batch; the losses are the means over all."""
    batch = {name: tensor.chunk(processes)[RANK] for name, tensor in examples().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
    losses = []
    for _ in range(STEPS):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach().clone()
        if processes > 1:
            dist.all_reduce(mean)
        losses.append(mean.item() / processes)
    return losses


def main(folder):
    dist.init_process_group("gloo")
    model = build_model()
    for layer in model.fpt.backbone.h:
        fully_shard(layer)
    fully_shard(model)
    record = {"losses": train(model, dist.get_world_size())}
    with torch.no_grad():
        record["logits"] = model(**examples()).logits.tolist()
    try:
        model.save_pretrained(folder / "ungathered")
    except ValueError as error:
        record["refused"] = str(error)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    model.save_pretrained(folder / "saved", RANK == 0, state_dict=get_model_state_dict(model, options=options))
    write_record(folder, record)
    dist.destroy_process_group()
    os._exit(0)  # the mesh keeps gloo's threads, which would abort a process that finishes before them


if __name__ == "__main__":
    main(Path(sys.argv[1]))
