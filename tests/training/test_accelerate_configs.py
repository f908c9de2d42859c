"""The configurations of examples/accelerate/: accelerate reads each as it was meant.

test_distributed.py starts processes with cpu.yaml, test_sharded.py with those that shard.
"""

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from runs import CONFIGS

TYPES = {
    "cpu": DistributedType.MULTI_GPU,
    "ddp": DistributedType.MULTI_GPU,
    "deepspeed_zero2": DistributedType.DEEPSPEED,
    "deepspeed_zero3": DistributedType.DEEPSPEED,
    "fsdp2": DistributedType.FSDP,
}


def read(name):
    return load_config_from_file(str(CONFIGS / f"{name}.yaml"))


def test_there_is_one_for_each_back_end():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(TYPES)


@pytest.mark.parametrize("name", TYPES)
def test_accelerate_reads_it_and_knows_every_field(name):
    config = read(name)
    assert config.distributed_type is TYPES[name]
    assert config.num_processes == 2 and config.num_machines == 1
    assert config.mixed_precision == "no"  # Trainer's own flag decides: DeepSpeed refuses two that differ
    assert config.use_cpu is False  # else one process would start
    known = {
        action.dest for action in launch_command_parser()._actions
    }  # it would pass over one that it does not know
    assert {*config.fsdp_config, *config.deepspeed_config} <= known


@pytest.mark.parametrize("name", TYPES)
def test_it_says_how_it_is_started_and_what_it_needs(name):
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    comment = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    assert f"accelerate launch --config_file examples/accelerate/{name}.yaml examples/run_fpt.py" in comment
    assert ("pip install deepspeed" in comment) == name.startswith("deepspeed")
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
