"""The configurations of examples/accelerate/: accelerate reads each as it was meant.

test_distributed.py starts processes with cpu.yaml, test_sharded.py with those that shard.
"""

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from conftest import EXAMPLES

CONFIGS = sorted((EXAMPLES / "accelerate").glob("*.yaml"))
TYPES = {
    "cpu": DistributedType.MULTI_GPU,
    "ddp": DistributedType.MULTI_GPU,
    "deepspeed_zero2": DistributedType.DEEPSPEED,
    "deepspeed_zero3": DistributedType.DEEPSPEED,
    "fsdp2": DistributedType.FSDP,
}


def read(name):
    return load_config_from_file(str(EXAMPLES / "accelerate" / f"{name}.yaml"))


def test_there_is_one_for_each_back_end():
    assert {path.stem for path in CONFIGS} == set(TYPES)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_it(path):
    config = load_config_from_file(str(path))
    assert config.distributed_type is TYPES[path.stem]
    assert config.num_processes == 2 and config.num_machines == 1
    assert config.mixed_precision == "no"  # Trainer's own flag decides: DeepSpeed refuses two that differ
    assert config.use_cpu is False  # else one process would start


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_launch_knows_every_field(path):
    """It would pass over one that it does not know."""
    config = load_config_from_file(str(path))
    known = {action.dest for action in launch_command_parser()._actions}
    assert {*config.fsdp_config, *config.deepspeed_config} <= known


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_says_how_it_is_started_and_what_it_needs(path):
    comment = " ".join(line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    assert f"accelerate launch --config_file examples/accelerate/{path.name} examples/run_fpt.py" in comment
    assert ("pip install deepspeed" in comment) == path.stem.startswith("deepspeed")
    assert "rocesses" in comment


def test_fsdp_shards_layers_and_gathers_what_is_saved():
    config = read("fsdp2").fsdp_config
    assert config["fsdp_version"] == 2
    assert config["fsdp_auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"
    assert "fsdp_transformer_layer_cls_to_wrap" not in config  # the model names its backbone's
    assert config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
    assert config["fsdp_cpu_ram_efficient_loading"] is False


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_leaves_loading_and_numbers_to_the_run(stage):
    config = read(f"deepspeed_zero{stage}").deepspeed_config
    assert config["zero_stage"] == stage and config["zero3_init_flag"] is False
    assert config["gradient_accumulation_steps"] == config["gradient_clipping"] == "auto"
    assert config.get("zero3_save_16bit_model", False) is (stage == 3)
