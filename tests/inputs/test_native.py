"""Native input: the model is the base's own and a head on its pooled states, and trains and travels as all others."""

import shutil

import numpy as np
import pytest
import torch
from conftest import COMMON, PICTURES, TINY_BACKBONES, checkpoint_activations, trainer_of
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    PreTrainedTokenizerFast,
    TrainingArguments,
    ViTImageProcessorPil,
    Wav2Vec2FeatureExtractor,
    pipeline,
)

from fpt_adapters import (
    FPTConfig,
    FPTForImageClassification,
    FPTForSequenceClassification,
    FPTForTokenClassification,
    FPTModel,
    FPTTrainer,
    FrozenBase,
    cache_features,
)
from fpt_adapters.backbones.native import NOT_TEXT, WAVES
from fpt_adapters.backbones.native import PICTURES as PICTURE_FAMILIES
from fpt_adapters.data.collating import collate_padded
from fpt_adapters.hub.code_export import code_files
from fpt_adapters.hub.repository import repository_files, write_repository
from fpt_adapters.inputs.native import native_kind
from fpt_adapters.rules.policy_rules import PAPER_GROUPS

WAVE = COMMON | {"conv_dim": [16, 16], "conv_kernel": [10, 4], "conv_stride": [5, 2], "num_feat_extract_layers": 2}
WAVE |= {"num_conv_pos_embeddings": 2, "num_conv_pos_embedding_groups": 2}
WAVE.pop("max_position_embeddings")
MELS = {"num_mel_bins": 8, "max_length": 16, "patch_size": 4, "frequency_stride": 4, "time_stride": 4}
WHISPER = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
WHISPER |= {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 8, "num_mel_bins": 8}
WHISPER |= {"max_source_positions": 10, "vocab_size": 9, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXTS = ("gpt2", "bert", "roberta", "distilbert", "albert", "t5", "longformer", "opt", "llama", "gemma", "modernbert")
CONFIGS = {name: TINY_BACKBONES[name] for name in TEXTS} | {
    **{name: PICTURES | {"intermediate_size": 64} for name in PICTURE_FAMILIES},
    "dinov2": PICTURES | {"mlp_ratio": 2},
    "dinov2_with_registers": PICTURES | {"mlp_ratio": 2},
    **dict.fromkeys(WAVES, WAVE),
    "unispeech-sat": WAVE | {"feat_extract_norm": "layer", "do_stable_layer_norm": True},
    "audio-spectrogram-transformer": PICTURES | MELS | {"intermediate_size": 64},
    "whisper": WHISPER | {"decoder_start_token_id": 1},
}
LENGTHS = dict.fromkeys(TEXTS, 10) | dict.fromkeys(WAVES, 200)
WITH_POSITIONS = {"gpt2", "bert", "roberta", "distilbert", "albert", "t5", "longformer", "opt"}
WITH_POSITIONS |= {*PICTURE_FAMILIES, "audio-spectrogram-transformer"}
LAST = {"gpt2", "opt", "llama", "gemma"}  # that look back only
SEGMENTS = {"bert", "albert", "roberta"}


@pytest.fixture(scope="module")
def native_base(tmp_path_factory):
    """A function from a family to the folder of a tiny base, saved when first asked for."""
    made = {}

    def base(family: str):
        if family not in made:
            made[family] = tmp_path_factory.mktemp("native") / family
            torch.manual_seed(1)
            AutoModel.from_config(AutoConfig.for_model(family, **CONFIGS[family])).save_pretrained(made[family])
        return made[family]

    return base


def fields_of(family):
    return {"input_type": "native"} | ({"sequence_length": LENGTHS[family]} if family in LENGTHS else {})


def inputs_of(family, model):
    """Two examples, of which the second is shorter, where a base reads such."""
    generator = torch.Generator().manual_seed(2)
    shape = (2, *eval(model.config.input.example(model.config)).shape[1:])
    if family not in LENGTHS:
        return {model.config.input.argument: torch.randn(shape, generator=generator)}
    mask = torch.ones(shape, dtype=torch.long)
    mask[1, -shape[1] // 4 :] = 0
    if family in WAVES:
        return {"input_values": torch.randn(shape, generator=generator), "attention_mask": mask}
    found = {"input_ids": torch.randint(3, 90, shape, generator=generator), "attention_mask": mask}
    if family in SEGMENTS - {"roberta"}:  # whose own segments have one number
        found["token_type_ids"] = (torch.arange(shape[1]) > 4).long().expand(shape)
    return found


def reference_logits(family, folder, model, inputs):
    """What transformers' own model and a linear layer on pooled states give."""
    auto = AutoModelForTextEncoding if family == "t5" else AutoModel
    own = auto.from_pretrained(folder).eval()
    own = own.get_encoder() if family == "whisper" else own
    states = own(**inputs).last_hidden_state
    mask = inputs.get("attention_mask")
    if mask is not None and family in WAVES:
        mask = own._get_feature_vector_attention_mask(states.shape[1], mask)
    mask = torch.ones(states.shape[:2]) if mask is None else mask
    if family in LAST:
        pooled = states[torch.arange(2), mask.sum(1) - 1]
    else:
        pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return model.head(pooled)


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # transformers' own WavLM
@pytest.mark.parametrize("family", CONFIGS)
def test_it_is_the_base_and_a_head_trains_the_policy_and_comes_back(family, native_base, tmp_path):
    folder = native_base(family)
    model = FPTForSequenceClassification.from_backbone(folder, **fields_of(family), num_labels=3)
    inputs = inputs_of(family, model)
    model.eval()
    with torch.no_grad():
        logits, expected = model(**inputs).logits, reference_logits(family, folder, model, inputs)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    assert model.fpt(**inputs).last_hidden_state.shape[1] == model.config.num_tokens

    positions = ["position"] if family in WITH_POSITIONS else []
    assert model.config.trainable == ["output", "norm", *positions]
    assert model.config.positions == ("backbone" if positions else "none")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model.train()(**inputs, labels=torch.tensor([0, 2])).loss.backward()
    optimizer.step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    model.eval().save_pretrained(tmp_path)
    for base in (folder, FrozenBase.from_pretrained(folder, native=True)):
        loaded = FPTForSequenceClassification.from_pretrained(tmp_path, base_model_name_or_path=base)
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert (tmp_path / "model.safetensors").stat().st_size == model.delta_bytes()


def test_the_table_has_every_family():
    assert set(NOT_TEXT) <= CONFIGS.keys()


@pytest.mark.parametrize("family", ["gpt2", "vit", "wav2vec2"])
def test_embeddings_train_where_they_are_asked_for(family, native_base, tmp_path):
    fields = fields_of(family) | {"trainable": ["input", "output"], "num_labels": 3}
    model = FPTForSequenceClassification.from_backbone(native_base(family), **fields)
    groups = model.parameter_groups()
    names = {name for name, group in groups.items() if group == "input"}
    first = {"gpt2": "wte", "vit": "patch_embeddings", "wav2vec2": "feature_extractor"}[family]
    assert any(first in name for name in names)
    assert {name for name, p in model.named_parameters() if p.requires_grad and "head" not in name} == names
    inputs = inputs_of(family, model)
    model.train()(**inputs, labels=torch.tensor([0, 2])).loss.backward()
    assert all(dict(model.named_parameters())[name].grad.abs().sum() > 0 for name in names)
    model.eval().save_pretrained(tmp_path)
    loaded = FPTForSequenceClassification.from_pretrained(tmp_path, base_model_name_or_path=native_base(family))
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("family", ["bert", "unispeech-sat"])  # a group norm would see the silence that fills up
def test_what_lies_behind_the_mask_changes_nothing(family, native_base):
    model = FPTForSequenceClassification.from_backbone(native_base(family), **fields_of(family), num_labels=3).eval()
    inputs = inputs_of(family, model)
    name, mask = model.config.input.argument, inputs["attention_mask"]
    others = inputs | {name: torch.where(mask == 0, inputs[name] * 0, inputs[name])}
    alone = {key: value[1:, : int(mask[1].sum())] for key, value in inputs.items()}
    torch.testing.assert_close(model(**others).logits[1:], model(**alone).logits, atol=1e-5, rtol=1e-4)
    if family == "bert":
        torch.testing.assert_close(model(**others).logits, model(**inputs).logits)


def test_whisper_pools_what_is_sound(native_base):
    model = FPTForSequenceClassification.from_backbone(
        native_base("whisper"), input_type="native", num_labels=3
    ).eval()
    features, mask = torch.randn(1, 8, 20), torch.tensor([[1] * 6 + [0] * 14])
    states = model.fpt(input_features=features).last_hidden_state
    expected = model.head(states[:, :3].mean(dim=1))
    torch.testing.assert_close(model(input_features=features, attention_mask=mask).logits, expected)


def examples(labels=None):
    """Eight texts of two to nine tokens in a list, as Trainer's data sets are."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for number in range(8):
        ids = torch.randint(3, 90, (2 + number,), generator=generator)
        filled = torch.cat([ids, ids.new_zeros(9 - len(ids))])
        mask = (torch.arange(9) < len(ids)).long()
        rows.append({"input_ids": filled, "attention_mask": mask, "labels": number % 3})
    return rows


@pytest.fixture
def make(native_base):
    def made(family="bert", **fields):
        torch.manual_seed(0)
        fields = fields_of(family) | {"num_labels": 3, "backbone_dropout": 0} | fields
        return FPTForSequenceClassification.from_backbone(native_base(family), **fields)

    return made


def test_features_are_kept_of_a_native_probe(make):
    model = make(trainable=["output"])
    kept = cache_features(model, examples(), progress=False)
    batch = {name: torch.stack([torch.as_tensor(row[name]) for row in examples()]) for name in examples()[0]}
    torch.testing.assert_close(model(**kept[:8]).loss, model(**batch).loss)


def test_an_adapter_trains_beside_it_and_comes_back(make, native_base, tmp_path):
    model = make(peft_config={"peft_type": "lora", "r": 2, "init_lora_weights": False})
    assert model.config.trainable == ["output", "norm", "position", "adapter"]
    batch = {"input_ids": examples()[7]["input_ids"][None]}
    model.eval().save_pretrained(tmp_path)
    loaded = FPTForSequenceClassification.from_pretrained(tmp_path, base_model_name_or_path=native_base("bert"))
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_one_base_serves_native_text_and_others_as_well(native_base):
    base = FrozenBase.from_pretrained(native_base("bert"))
    native = FPTForSequenceClassification.from_backbone(base, **fields_of("bert"))
    other = FPTForSequenceClassification.from_backbone(base, input_type="values", input_size=3, sequence_length=10)
    tables = [model.fpt.backbone.embeddings.word_embeddings.weight for model in (native, other)]
    assert tables[0].data_ptr() == tables[1].data_ptr()
    assert native.config.base_model_fingerprint == other.config.base_model_fingerprint


def test_a_run_goes_on_bit_by_bit(make, tmp_path):
    arguments = {"max_steps": 4, "use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_steps": 2}
    arguments |= {"per_device_train_batch_size": 2, "learning_rate": 1e-2, "dataloader_pin_memory": False}

    def trained(folder, checkpoint=None):
        model = make(backbone_dropout=0.1)
        trainer = FPTTrainer(model, TrainingArguments(str(folder), **arguments), train_dataset=examples())
        trainer.train(resume_from_checkpoint=checkpoint)
        return model.delta_tensors()

    whole = trained(tmp_path / "whole")
    resumed = trained(tmp_path / "again", str(tmp_path / "whole" / "checkpoint-2"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


PROCESSORS = {
    "vit": (ViTImageProcessorPil(size={"height": 8, "width": 8}), "preprocessor_config.json"),
    "wav2vec2": (Wav2Vec2FeatureExtractor(), "preprocessor_config.json"),
    "bert": (PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, "a"))), "tokenizer_config.json"),
}


@pytest.mark.parametrize("family", PROCESSORS)
def test_the_bases_processor_travels(family, native_base, tmp_path):
    processor, file = PROCESSORS[family]
    shutil.copytree(native_base(family), tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    model = FPTForSequenceClassification.from_backbone(tmp_path / "base", **fields_of(family), num_labels=3)
    assert type(model.processor) is type(processor)
    write_repository(model, tmp_path / "repository", "owner/name")
    assert (tmp_path / "repository" / file).is_file()
    assert file in repository_files(tmp_path / "repository", model)
    bare = FPTForSequenceClassification.from_backbone(native_base(family), **fields_of(family), num_labels=3)
    assert bare.processor is None


def test_waves_of_several_lengths_are_answered_as_they_are_trained():
    kind, extractor = native_kind(AutoConfig.for_model("wav2vec2")), Wav2Vec2FeatureExtractor()
    clips = [np.linspace(-1, 1, 300), {"array": np.linspace(0, 5, 100) ** 2, "sampling_rate": 8000}]
    alone = [kind.prepare(extractor, [clip]) for clip in clips]
    rows = [{name: tensor[0] for name, tensor in one.items()} for one in alone]
    assert [len(row["input_values"]) for row in rows] == [300, 200]
    torch.testing.assert_close(dict(kind.prepare(extractor, clips)), collate_padded(rows))


@pytest.mark.parametrize("image", [np.full((9, 7), 80, np.uint8), Image.new("LA", (7, 9)), Image.new("P", (7, 9))])
def test_pictures_of_every_mode_are_read_in_colour(image):
    kind, processor = native_kind(AutoConfig.for_model("vit")), PROCESSORS["vit"][0]
    assert kind.prepare(processor, [image])["pixel_values"].shape == (1, 3, 8, 8)


def test_a_picture_of_more_bits_is_refused():
    with pytest.raises(ValueError, match="8 bits a pixel"):
        native_kind(AutoConfig.for_model("vit")).prepare(PROCESSORS["vit"][0], [Image.new("I;16", (8, 8))])


def test_a_pipeline_reads_pictures_by_the_bases_processor(native_base, tmp_path):
    shutil.copytree(native_base("vit"), tmp_path / "base")
    PROCESSORS["vit"][0].save_pretrained(tmp_path / "base")
    model = FPTForImageClassification.from_backbone(tmp_path / "base", input_type="native", num_labels=2)
    model.save_pretrained(tmp_path / "out")
    model.processor.save_pretrained(tmp_path / "out")
    place = {"base_model_name_or_path": str(tmp_path / "base")}
    classify = pipeline("image-classification", model=str(tmp_path / "out"), model_kwargs=place)
    answers = classify(Image.new("RGB", (20, 30), "red"))
    assert sorted(answer["label"] for answer in answers) == ["LABEL_0", "LABEL_1"]


@pytest.mark.parametrize("family", ["gpt2", "vit", "wav2vec2"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_activations_give_the_same_gradients(family, reentrant, native_base):
    if family == "wav2vec2" and reentrant:
        pytest.skip("its embeddings are no one module, whose output could be made to need a gradient")
    fields = fields_of(family) | {"num_labels": 3, "backbone_dropout": 0}
    model = FPTForSequenceClassification.from_backbone(native_base(family), **fields).train()
    inputs, gradients = inputs_of(family, model), []
    for checkpointed in (False, True):
        if checkpointed:
            checkpoint_activations(model, reentrant)
        model.zero_grad()
        model(**inputs, labels=torch.tensor([0, 2])).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(*gradients)


def test_its_code_travels_alone(make, native_base):
    native, values = make().config, make(family="bert", input_type="values", input_size=3).config
    files, others = (code_files(config)["fpt_inputs.py"] for config in (native, values))
    assert "class TextReader" in files
    assert "class TextReader" not in others


WRONG = [
    ("bert", {}, "sequence_length is missing"),
    ("bert", {"sequence_length": 10, "vocab_size": 9}, "vocab_size does not belong to input_type='native'"),
    ("bert", {"sequence_length": 65}, "positions for 64"),
    ("bert", {"sequence_length": 10, "positions": "new"}, "leave it out"),
    ("bert", {"sequence_length": 10, "input_dropout": 0.3}, "write backbone_dropout"),
    ("vit", {"sequence_length": 10}, "takes none on this backbone"),
    ("llama", {"sequence_length": 10, "trainable": ["position"]}, "no position parameters|leaves no position"),
    ("wav2vec2", {"sequence_length": 5}, "make no token"),
    ("wav2vec2", {"input_type": "values", "input_size": 1, "sequence_length": 5}, "write input_type='native'"),
]


@pytest.mark.parametrize(("family", "fields", "message"), WRONG)
def test_what_does_not_fit_is_refused(family, fields, message, native_base):
    with pytest.raises(ValueError, match=message):
        FPTForSequenceClassification.from_backbone(native_base(family), **({"input_type": "native"} | fields))


def test_families_that_read_something_else_are_refused():
    config = AutoConfig.for_model("fpt_lstm", hidden_size=8, num_hidden_layers=1)
    with pytest.raises(ValueError, match="is for text models"):
        FPTModel.from_backbone(config, backbone_init="random", input_type="native", sequence_length=4)


WRONG_INPUTS = [
    ("bert", {"input_ids": torch.ones(1, 11, dtype=torch.long)}, "at most 10"),
    ("bert", {"input_ids": torch.ones(1, 4)}, "whole numbers"),
    ("bert", {"input_values": torch.ones(1, 4, 3)}, "takes input_ids; got input_values"),
    ("vit", {"pixel_values": torch.ones(3, 8, 8)}, "channels, height, width"),
    ("vit", {"pixel_values": torch.ones(1, 3, 8, 8), "attention_mask": torch.ones(1, 5)}, "leave attention_mask out"),
    ("hubert", {"input_values": torch.ones(1, 201)}, "at most 200"),
    ("hubert", {"input_values": torch.ones(1, 12)}, "makes no token"),
]


@pytest.mark.parametrize(("family", "inputs", "message"), WRONG_INPUTS)
def test_inputs_of_another_kind_are_refused(family, inputs, message, native_base):
    model = FPTModel.from_backbone(native_base(family), **fields_of(family))
    with pytest.raises(ValueError, match=message):
        model(**inputs)


@pytest.mark.parametrize(
    ("model_class", "family", "fits"),
    [
        (FPTForImageClassification, "vit", True),
        (FPTForImageClassification, "bert", False),
        (FPTForTokenClassification, "bert", True),
        (FPTForTokenClassification, "vit", False),
    ],
)
def test_heads_take_the_inputs_that_they_answer(model_class, family, fits, native_base):
    if fits:
        assert model_class.from_backbone(native_base(family), **fields_of(family)).head_type.pipeline_tag
    else:
        with pytest.raises(ValueError, match=model_class.__name__):
            model_class.from_backbone(native_base(family), **fields_of(family))


def test_ids_beyond_the_bases_vocabulary_are_found_before_training(make, tmp_path):
    rows = examples()
    rows[0]["input_ids"][0] = 100
    with pytest.raises(ValueError, match=r"input_ids must lie in 0\.\.99"):
        trainer_of(make(), tmp_path, train_dataset=rows).train()


def test_only_an_open_policy_is_found(native_base):
    config = FPTConfig(input_type="native", sequence_length=4)
    assert config.trainable is None
    assert FPTConfig().trainable == list(PAPER_GROUPS)
    model = FPTModel.from_backbone(native_base("llama"), config)
    assert model.config.trainable == ["output", "norm"]
    assert isinstance(model.get_input_embeddings(), nn.Embedding)
    with pytest.raises(ValueError, match="the base's own embeddings"):
        model.resize_token_embeddings(120)
