"""Whether a task's data loader keeps up with the GPU: images and tokens, held and streamed."""

import os
import statistics
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from compare_worker import arguments_for
from data_pipeline import TimedTrainer, random_images

from fpt_adapters import FPTPreTrainedModel
from fpt_adapters.tasks import TASKS
from fpt_adapters.tasks.task import Task, TaskData
from gpu_parts.clock import seconds_of, synchronize
from gpu_parts.setting import Setting
from gpu_parts.speed import base_folder, shape_of

TOKENS_IN_STEP = 2**15  # enough to fill the GPU
EXAMPLES, STEPS, WARM_UP = 20_000, 25, 5
SMOKE = {"tokens": 256, "examples": 64, "steps": 3, "tokens_of_base": 1024}


def keeps_up(setting: Setting, task_name: str, streamed: bool = False) -> dict[str, Any]:
    """Samples per second of only the loader, only the step, and of training, for each number of workers."""
    count = SMOKE["examples"] if setting.smoke else EXAMPLES
    workers = workers_of(setting)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        task, data = load(task_name, count, streamed, workers, Path(folder))
        loaded = time.perf_counter() - start
        shape = replace(shape_of(setting, "124M"), positions=SMOKE["tokens_of_base"])
        model = task.model_class.from_backbone(base_folder(setting, shape), dtype="bfloat16", **data.config)
        tokens = SMOKE["tokens"] if setting.smoke else TOKENS_IN_STEP
        batch = max(1, tokens // model.config.num_tokens)
        step = batch / step_seconds(setting, model, task, data, batch)
        rows = [
            {"workers": one, "step": step, **measure(setting, model, task, data, batch, one, folder)}
            for one in workers
        ]
    return {"batch": batch, "tokens": model.config.num_tokens, "load_seconds": loaded, "loaders": rows}


def load(name: str, count: int, streamed: bool, workers: list[int], folder: Path) -> tuple[Task, TaskData]:
    """A task with its data, which the task draws or which are random images in parquet files."""
    if name == "listops":
        task = TASKS[name](train_examples=count, eval_examples=8)
        return task, task.load(0)
    random_images(name, folder, count)
    held_out = {"validation_file": str(folder / "test.parquet"), "test_file": str(folder / "test.parquet")}
    if not streamed:
        task = TASKS[name](train_file=str(folder / "train.parquet"), **held_out)
        return task, task.load(0)
    for number in range(max(workers)):  # each worker reads its own files
        (folder / f"shard-{number}.parquet").symlink_to(folder / "train.parquet")
    task = TASKS[name](train_file=str(folder / "shard-*.parquet"), **held_out)
    return task, task.stream(0)


def workers_of(setting: Setting) -> list[int]:
    """Numbers of loader processes to test: none, a few, and nearly as many as there are cores."""
    cores = len(os.sched_getaffinity(0))
    return [0, 1] if setting.smoke else sorted({0, max(1, cores // 4), max(1, cores - 2)})


def step_seconds(setting: Setting, model: FPTPreTrainedModel, task: Task, data: TaskData, batch: int) -> float:
    """The median seconds of a step on a batch that is already on the device."""
    examples = list(islice(data.validation, 1)) * batch
    inputs = {name: tensor.to(setting.device) for name, tensor in task.collate(examples).items()}
    model.to(setting.device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(setting.device.type, dtype=torch.bfloat16):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(WARM_UP):
        step()
    return statistics.median(seconds_of(setting.device, step, SMOKE["steps"] if setting.smoke else STEPS))


def measure(
    setting: Setting, model: FPTPreTrainedModel, task: Task, data: TaskData, batch: int, workers: int, folder: str
) -> dict[str, float]:
    """Samples per second of Trainer's loader at full speed, and of training, with the share of time spent waiting."""
    steps = SMOKE["steps"] if setting.smoke else STEPS
    changes = {"dataloader_num_workers": workers, "dataloader_persistent_workers": workers > 0}
    args = arguments_for(folder, batch, True, **changes)
    args.max_steps = steps + WARM_UP
    trainer = TimedTrainer(model, args, train_dataset=data.train, data_collator=task.collate)
    trainer.train()
    synchronize()
    rate = rate_of(trainer.arrivals[WARM_UP:], batch)
    waits = sum(trainer.waits[WARM_UP + 1 :]) / (trainer.arrivals[-1] - trainer.arrivals[WARM_UP])
    trainer.accelerator.free_memory()  # also ends the workers
    loader = trainer.get_train_dataloader()
    arrivals = []
    while len(arrivals) <= steps:  # several epochs of a short data set
        arrivals += [time.perf_counter() for _ in islice(loader, steps + 1 - len(arrivals))]
    return {"loader": rate_of(arrivals, batch), "training": rate, "waits": waits}


def rate_of(arrivals: list[float], batch: int) -> float:
    """Samples a second between the first batch and the last."""
    return (len(arrivals) - 1) * batch / (arrivals[-1] - arrivals[0])
