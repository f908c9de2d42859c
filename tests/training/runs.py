"""What tests of training share: what a run was, that two were the same, and runs of several processes."""

import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_config, trainer_of
from transformers import Trainer, TrainerCallback, set_seed

from fpt_adapters import FPTForImageClassification, FPTTrainer
from fpt_adapters.tasks import TASKS

ROOT = Path(__file__).parents[2]
SCRIPTS, CONFIGS = ROOT / "tests" / "scripts", ROOT / "examples" / "accelerate"
TRAINERS = pytest.mark.parametrize("trainer_class", [Trainer, FPTTrainer])
NO_DROPOUT = {"input_dropout": 0.0, "backbone_dropout": 0.0}
IMAGES = {"input_type": "images", "image_size": 8, "num_channels": 1, "input_size": None, "sequence_length": None}
TOKENS = {"input_type": "tokens", "input_size": None, "vocab_size": 7}
WEIGHTS = "model.safetensors"
RANK = int(os.environ.get("RANK", "0"))  # of this process


def labelled_tokens(count, seed=0):
    """Examples with one label per token, of which 1 to 10 are given: no two micro batches have as many."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for index in range(count):
        labels = torch.randint(4, (10,), generator=generator)
        labels[1 + (7 * index) % 10 :] = -100
        examples.append({"input_values": torch.randn(10, 3, generator=generator), "labels": labels})
    return examples


def copied(model, trained=None):
    """Copies of the parameters by name: all, the trained or the frozen ones."""
    named = model.named_parameters()
    return {name: p.detach().clone() for name, p in named if trained is None or p.requires_grad == trained}


def assert_same(first, second):
    assert first.keys() == second.keys() and first
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def assert_close(first, second, atol=1e-5):
    assert first.keys() == second.keys() and first
    for name, tensor in first.items():
        torch.testing.assert_close(
            tensor, second[name], atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


def losses(trainer):
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def count_examples(model):
    """A list that grows by the batch size whenever the backbone runs."""
    seen = []
    model.fpt.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    return seen


def own_messages(warned):
    """What the library itself warned of."""
    return [record.getMessage() for record in warned.records if record.name.startswith("fpt_adapters")]


class AfterStep(TrainerCallback):
    """Calls a function with (step, model, optimizer, control) after every step."""

    def __init__(self, function):
        self.function = function

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.function(state.global_step, model, optimizer, control)


def stop_after(last):
    def stop(step, model, optimizer, control):
        control.should_training_stop = step == last

    return AfterStep(stop)


def change_frozen(step, model, optimizer, control):
    """Change one frozen weight of GPT-2 a little, after the second step."""
    if step == 2:
        model.fpt.backbone.h[0].mlp.c_fc.weight.data[0, 0] += 1e-6


def assert_resumes(make, stop, resume=True):
    """A run that stops, and goes on in a new Trainer, ends in the same bits as one that does not; returns these two.

    `make(folder, callbacks=None)`: a Trainer whose first checkpoint is that of step `stop`.
    """
    whole = make("whole")  # each seeds torch where it is made
    whole.train()
    halted = make("halves", callbacks=[stop_after(stop)])
    halted.train()
    assert halted.state.global_step == stop < whole.state.global_step == len(losses(whole))
    resumed = make("halves")
    with torch.no_grad():
        for parameter in resumed.model.parameters():  # what trains must come from the checkpoint, all of it
            parameter.add_(parameter.requires_grad)
    resumed.train(resume_from_checkpoint=resume)
    assert losses(resumed) == losses(whole)
    assert_same(copied(resumed.model), copied(whole.model))
    return resumed, whole


# Several processes


def launch(script, *arguments, config=None):
    """Run a script in two processes of this machine; `config`: an accelerate configuration that says so."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    if config is None:
        command += "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no".split()
    else:
        command += ["--config_file", config]
    command += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port), script, *arguments]
    environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=os.environ | environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-5000:]


def launch_and_read(script, folder, config=None):
    """The records of two processes that run a script; see `write_record`."""
    launch(script, folder, config=config)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@functools.cache
def two_processes(parent):
    """The folder of scripts/two_processes.py, run once in `parent`, and what each process saw."""
    folder = parent / "two_processes"
    folder.mkdir(exist_ok=True)
    return folder, launch_and_read(SCRIPTS / "two_processes.py", folder)


def write_record(folder, record):
    """Leave what this process saw."""
    (folder / f"rank{RANK}.json").write_text(json.dumps(record))


def functions_of(task):
    """What a task gives to a Trainer."""
    names = ("compute_metrics", "preprocess_logits_for_metrics")
    return {"data_collator": task.collate, **{name: getattr(task, name) for name in names}}


def digits_trainer(folder, counts, model_type="gpt2", model_fields=None, **fields):
    """A tiny model without dropout on `counts` digits for training, validation and test, and its Trainer."""
    task = TASKS["digits"]()
    data = task.load(0, dict(zip(("train", "validation", "test"), counts, strict=True)))
    set_seed(0)
    model = FPTForImageClassification.from_backbone(
        tiny_config(model_type), backbone_init="random", **NO_DROPOUT, **data.config, **(model_fields or {})
    )
    own = {
        "train_dataset": data.train,
        "eval_dataset": data.validation,
        "remove_unused_columns": False,
        "lr_scheduler_type": "linear",
    }
    return trainer_of(model, folder, **(own | functions_of(task) | fields))
