"""Pushing to the Hub: what arrives there and what never does, the card that people read, and finding what is there."""

import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load

from fpt_adapters.hub.finding import DeltaSummary, format_deltas

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "run_fpt.py"
DELTA = {"config.json", "model.safetensors"}
PICTURES = {"confusion_matrix.png", "learning_curve.png"}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}
SMALL = 100_000  # bytes; the tiny base alone has more
SIZE_OF_PICTURES = 150_000

SETUP = """
import logging, os, re, runpy, sys
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from huggingface_hub import HfApi, ModelCard, snapshot_download
from transformers import AutoModelForImageClassification, TrainingArguments
from fpt_adapters import FPTForImageClassification, FPTTrainer
from fpt_adapters.tasks import TASKS

kept = sys.__dict__.setdefault("kept", {})  # what later code of this process needs again
TASK = {
    "digits": lambda: TASKS["digits"](),
    "listops": lambda: TASKS["listops"](
        variant="full", min_length=5, max_length=40, max_depth=4, max_args=4, train_examples=48, eval_examples=40
    ),
    "xor": lambda: TASKS["bit-xor"](train_examples=48, eval_examples=40),
}
IMAGES = {"input_type": "images", "image_size": 8, "num_channels": 1, "patch_size": 2, "num_labels": 3}

def new_model(base="owner/base", **fields):
    torch.manual_seed(0)
    return FPTForImageClassification.from_backbone(base, **(IMAGES | fields))

def new_trainer(name, folder, base="owner/base", model=None, pushing_to=None, **arguments):
    task = TASK[name]()
    data = task.load(0, {"train": 48, "validation": 40, "test": 30})
    torch.manual_seed(0)
    model = model or task.model_class.from_backbone(base, **data.config)
    default = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no"}
    default |= {"learning_rate": 1e-2, "logging_steps": 1, "max_steps": 4}
    if pushing_to:  # at every second step
        default |= {"push_to_hub": True, "hub_model_id": pushing_to, "hub_always_push": True}
        default |= {"save_strategy": "steps", "save_steps": 2}
    trainer = FPTTrainer(
        model,
        TrainingArguments(folder, remove_unused_columns=False, **(default | arguments)),
        train_dataset=data.train,
        eval_dataset=data.validation,
        data_collator=task.collate,
        processing_class=task.processor(),
        compute_metrics=task.compute_metrics,
        preprocess_logits_for_metrics=task.preprocess_logits_for_metrics,
    )
    trainer.card.task_name = task.name
    trainer.test_set, trainer.task = data.test, task
    return trainer

def loaded(repo_id, **kwargs):
    return AutoModelForImageClassification.from_pretrained(repo_id, **kwargs)

def changed(model):
    model.head.bias.data.add_(1)
    return model

def heard(work):
    \"\"\"The warnings of the library while it works.\"\"\"
    lines, logger, handler = [], logging.getLogger("fpt_adapters"), logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    work()
    logger.removeHandler(handler)
    return lines
"""


@pytest.fixture(scope="module")
def owner(make_client):
    return make_client("owner", token="hf_owner", setup=SETUP)


@pytest.fixture(scope="module")
def reader(make_client):
    """Somebody else: another cache, no token."""
    return make_client("reader", setup=SETUP)


@pytest.fixture(autouse=True)
def nothing_goes_wrong_later(hub):
    yield
    hub.clear_faults()


def png(shape, seed):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def script_run(hub, home, tmp_path_factory):
    """run_fpt.py from a base and a data set on the Hub to a delta on the Hub: its folder."""
    labels = [i % 10 for i in range(60)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    images = [{"bytes": png((28, 28), seed), "path": None} for seed in range(60)]
    file = tmp_path_factory.mktemp("data") / "rows.parquet"
    datasets.Dataset.from_dict({"image": images, "label": labels}, features=features).to_parquet(file)
    for split in ("train", "test"):
        files = {f"data/{split}-00000-of-00001.parquet": file.read_bytes()}
        hub.add_repo("owner/pictures", files, repo_type="dataset")
    folder = home / "of-the-script"
    arguments = "--task_name mnist --model_name_or_path owner/base --dataset_name owner/pictures --use_cpu"
    arguments += " --disable_tqdm true --save_strategy no --do_train --do_eval --do_predict --max_steps 2"
    arguments += " --logging_steps 1 --max_eval_samples 20 --license mit --push_to_hub --hub_model_id owner/by-script"
    command = [sys.executable, str(SCRIPT), *arguments.split(), "--output_dir", str(folder)]
    environment = hub.environment(home / "of-the-run", token="hf_owner")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, cwd=home)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


PUSHED = {"digits": "owner/by-trainer", "listops": "owner/by-model", "xor": "owner/bits"}


@pytest.fixture(scope="module")
def pushed(owner):
    """What each pushed repo is of: metrics by name. Digits by the trainer, ListOps and XOR by the model."""
    code = """
    result = {}
    for name, repo_id in repos.items():
        trainer = new_trainer(name, f"trained/{name}", hub_model_id=repo_id, save_strategy="steps", save_steps=2)
        trainer.train()
        trainer.save_metrics("train", {"loss": 1.0})
        result[name] = trainer.evaluate() | trainer.predict(trainer.test_set, metric_key_prefix="test").metrics
        if name == "digits":
            trainer.push_to_hub()
        else:
            trainer.create_model_card()
            trainer.model.push_to_hub(repo_id)
    """
    return owner.run(code, repos=PUSHED)


WAYS = {
    "owner/by-trainer": {"preprocessor_config.json"},
    "owner/by-model": TOKENIZER,
    "owner/bits": {"preprocessor_config.json"},
    "owner/by-script": {"preprocessor_config.json"},
}


@pytest.fixture(params=WAYS)
def way(request, pushed):
    if request.param == "owner/by-script":
        request.getfixturevalue("script_run")
    return request.param


def same_tensors(first, second):
    """Whether two safetensors files hold the same bits (their bytes differ in the order of the metadata)."""
    first, second = load(first), load(second)
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def steps_pushed(hub, repo_id, folder, revision="main"):
    """The steps of `folder`'s checkpoints that a repo's commits hold, newest first; None for another delta."""
    deltas = [hub.files(repo_id, commit).get("model.safetensors") for commit in hub.commits(repo_id, revision)]
    saved = {int(file.parent.name.split("-")[1]): file for file in folder.glob("checkpoint-*/model.safetensors")}
    return [
        next((step for step, file in saved.items() if same_tensors(file.read_bytes(), delta)), None)
        for delta in deltas
        if delta is not None
    ]


# What arrives


def test_a_push_holds_exactly_what_belongs_there(way, hub):
    assert set(hub.files(way)) == {".gitattributes", "README.md", *DELTA, *PICTURES, *WAYS[way]}


def test_a_push_is_one_commit(way, hub):
    commits = hub.commits(way)
    assert len(commits) == 2  # the first is the server's own
    assert set(hub.files(way, commits[1])) == {".gitattributes"}


def test_the_backbone_stays_where_it_is(way, hub, saved_base):
    names = load(hub.files(way)["model.safetensors"]).keys()
    norms = {f"backbone.{place}norm.{i}" for place in ("", "layers.0.", "layers.1.") for i in range(4 if place else 2)}
    assert {name for name in names if "backbone." in name} == {*norms, "backbone.position.0"}
    for data in hub.files(way).values():
        assert (saved_base / "model.safetensors").read_bytes()[-200:] not in data


def test_a_push_is_small(way, hub, saved_base):
    files = hub.files(way)
    assert len(files["model.safetensors"]) < (saved_base / "model.safetensors").stat().st_size / 3
    assert sum(len(data) for name, data in files.items() if name not in PICTURES) < SMALL
    assert sum(len(files[name]) for name in PICTURES) < SIZE_OF_PICTURES


def test_no_pushed_file_names_a_local_path(way, hub, home, saved_base):
    places = {str(home), home.name, tempfile.gettempdir(), str(Path.home()), str(ROOT), str(saved_base)}
    places |= {"site-packages", sys.prefix, "trained/"}
    for name, data in hub.files(way).items():
        for place in places:
            assert place.encode() not in data, (name, place)
        assert not data.startswith((b"\x80", b"PK")), name  # a pickle, or torch's archive of one


def test_pictures_are_pictures(way, hub):
    for name in PICTURES:
        with Image.open(io.BytesIO(hub.files(way)[name])) as picture:
            assert picture.format == "PNG" and picture.width > 200 < picture.height
        assert f"({name})" in hub.files(way)["README.md"].decode()


def test_what_stays_home_was_there(pushed, home):
    at_home = {path.name for path in (home / "trained" / "digits").iterdir()}
    assert {"train_results.json", "all_results.json", "checkpoint-2", "README.md"} <= at_home


def test_a_model_without_processor_and_training_is_pushed_too(owner, hub):
    owner.run('new_model().push_to_hub("owner/untrained")')
    assert set(hub.files("owner/untrained")) == {".gitattributes", "README.md", *DELTA}
    text = hub.files("owner/untrained")["README.md"].decode()
    assert "model-index" not in text and "Results" not in text


def test_save_pretrained_pushes_when_asked(owner, hub, tmp_path):
    code = """
    model = new_model()
    model.save_pretrained(folder, push_to_hub=True, repo_id="owner/saved", token="hf_owner", private=True)
    model.save_pretrained(folder + "/named-like-this", push_to_hub=True)
    """
    owner.run(code, folder=str(tmp_path))
    for repo_id in ("owner/saved", "owner/named-like-this"):
        assert set(hub.files(repo_id)) == {".gitattributes", "README.md", *DELTA}
    assert same_tensors((tmp_path / "model.safetensors").read_bytes(), hub.files("owner/saved")["model.safetensors"])


def test_saving_never_contacts_the_hub(owner, hub, pushed, tmp_path):
    code = """
    kept["model"] = loaded("owner/by-trainer")
    kept["trainer"] = new_trainer("digits", folder + "/trainer", save_strategy="steps", save_steps=2)
    """
    owner.run(code, folder=str(tmp_path))
    hub.clear_log()
    code = """
    kept["model"].save_pretrained(folder + "/plain")
    kept["model"].save_pretrained(folder + "/code", with_code=True)
    kept["trainer"].train()
    kept["trainer"].save_model()
    kept["trainer"].create_model_card()
    """
    owner.run(code, folder=str(tmp_path))
    assert hub.requests == []
    assert (tmp_path / "trainer" / "checkpoint-4").is_dir()


# Where to, and as whom


def test_a_branch_is_pushed_to(owner, reader, hub):
    code = """
    model = new_model()
    model.push_to_hub("owner/branches")
    result = changed(model).push_to_hub("owner/branches", revision="bolder").oid
    """
    oid = owner.run(code)
    assert hub.commits("owner/branches", "bolder")[0] == oid
    assert len(hub.commits("owner/branches")) == 2
    code = """
    main, bolder = (loaded("owner/branches", revision=revision) for revision in ("main", "bolder"))
    result = (bolder.head.bias - main.head.bias).tolist()
    """
    assert reader.run(code) == pytest.approx([1, 1, 1])


def test_a_stranger_opens_a_pull_request(reader, hub, pushed):
    code = """
    model = changed(loaded("owner/by-trainer"))
    info = model.push_to_hub("owner/by-trainer", create_pr=True, token="hf_stranger")
    result = [info.pr_revision, info.pr_url]
    """
    before = hub.commits("owner/by-trainer")
    revision, url = reader.run(code)
    assert revision == "refs/pr/1" and url.endswith("/discussions/1")
    assert hub.commits("owner/by-trainer") == before
    files, main = hub.files("owner/by-trainer", revision), hub.files("owner/by-trainer")
    assert files["model.safetensors"] != main["model.safetensors"]
    assert DELTA <= files.keys()


def test_a_stranger_may_not_push(reader, pushed, hub):
    before = hub.commits("owner/by-trainer")
    error = reader.fails('new_model().push_to_hub("owner/by-trainer", token="hf_stranger")')
    assert "HfHubHTTPError" in error.kinds and "403" in str(error)
    assert hub.commits("owner/by-trainer") == before


def test_a_private_repo_stays_private(owner, reader):
    owner.run('new_model().push_to_hub("owner/secret", private=True)')
    code = 'result = FPTForImageClassification.from_pretrained("owner/secret", token=token).num_parameters()'
    for token in (None, "hf_stranger"):
        error = reader.fails(code, token=token)
        assert "RepositoryNotFoundError" in error.kinds and "owner/secret" in str(error)
    assert reader.run(code, token="hf_owner") > 0


def test_a_token_may_be_given(reader, hub):
    hub.clear_log()
    reader.run('new_model().push_to_hub("owner/with-token", token="hf_owner")')
    assert DELTA <= hub.files("owner/with-token").keys()
    writes = [r.token for r in hub.requests if r.method == "POST" and r.path.startswith("/api/")]
    assert len(writes) >= 3 and set(writes) == {"hf_owner"}


@pytest.mark.parametrize("token", ["hf_wrong", None])
def test_a_wrong_token_gives_the_hubs_own_error(token, reader, hub):
    hub.clear_log()
    error = reader.fails('new_model().push_to_hub("owner/denied", token=token)', token=token)
    assert "HfHubHTTPError" in error.kinds and "401" in str(error)
    assert {request.path for request in hub.requests if request.method == "POST"} == {"/api/repos/create"}


# A base that nobody can find


LONELY = {
    "model": "new_model(base).push_to_hub('owner/lonely')",
    "save": "new_model(base).save_pretrained(folder + '/saved', push_to_hub=True, repo_id='owner/lonely')",
    "trainer": "new_trainer('digits', folder + '/a', base, hub_model_id='owner/lonely').push_to_hub()",
    "arguments": "new_trainer('digits', folder + '/b', base, pushing_to='owner/lonely')",
    "script": """
        arguments = "--task_name digits --use_cpu --do_train --max_steps 1 --push_to_hub --hub_model_id owner/lonely"
        sys.path.insert(0, os.path.dirname(script))  # as for a script that is run
        paths = ["--model_name_or_path", base, "--output_dir", folder + "/c"]
        runpy.run_path(script)["main"]([*arguments.split(), *paths])
    """,
}


@pytest.mark.parametrize("by", LONELY)
def test_a_base_without_a_hub_id_is_refused_before_anything_is_sent(by, owner, hub, saved_base, tmp_path):
    hub.clear_log()
    error = owner.fails(LONELY[by], base=str(saved_base), folder=str(tmp_path), script=str(SCRIPT))
    assert "ValueError" in error.kinds, error.trace
    assert "model.config.base_model = 'org/name'" in str(error) and str(saved_base) not in str(error)
    assert hub.requests == []
    assert not list(tmp_path.rglob("checkpoint-*")) and not list(tmp_path.rglob("trainer_state.json"))


def test_a_copy_of_a_hub_model_is_shared_once_it_is_named(owner, reader, hub, saved_base):
    code = """
    model = new_model(base)
    model.config.base_model = "owner/base"
    model.push_to_hub("owner/copy")
    """
    owner.run(code, base=str(saved_base))
    assert reader.run('result = loaded("owner/copy").config.base_model') == "owner/base"
    assert "base_model: owner/base" in hub.files("owner/copy")["README.md"].decode()


# Pushing again, under another name


@pytest.fixture(scope="module")
def sources(reader, pushed, home):
    """Where the digits' delta is: on the Hub, and in a folder."""
    folder = str(home / "downloaded")
    reader.run('snapshot_download("owner/by-trainer", local_dir=folder)', folder=folder)
    return {"hub": "owner/by-trainer", "folder": folder}


@pytest.mark.parametrize("place", ["hub", "folder"])
def test_a_loaded_model_keeps_what_lay_beside_it(place, reader, hub, sources):
    repo_id = f"owner/again-from-{place}"
    code = 'result = heard(lambda: loaded(source).push_to_hub(repo_id, token="hf_owner"))'
    assert reader.run(code, source=sources[place], repo_id=repo_id) == []
    old, new = hub.files("owner/by-trainer"), hub.files(repo_id)
    assert new.keys() == old.keys()
    assert same_tensors(new["model.safetensors"], old["model.safetensors"])
    for name in old.keys() - {"README.md", "config.json", "model.safetensors"}:
        assert new[name] == old[name], name
    assert new["README.md"].decode() == old["README.md"].decode().replace("owner/by-trainer", repo_id)
    configs = [json.loads(files["config.json"]) for files in (old, new)]
    configs[0].pop("use_cache", None)  # Trainer's, and of no meaning here
    assert configs[0] == configs[1]
    assert sources["folder"].encode() not in b"".join(new.values())


@pytest.mark.parametrize("place", ["hub", "folder"])
def test_changed_weights_lose_the_old_results(place, reader, hub, sources):
    repo_id = f"owner/changed-from-{place}"
    code = 'changed(loaded(source)).push_to_hub(repo_id, token="hf_owner")'
    reader.run(code, source=sources[place], repo_id=repo_id)
    old, new = hub.files("owner/by-trainer"), hub.files(repo_id)
    assert new.keys() == old.keys() - PICTURES
    assert new["preprocessor_config.json"] == old["preprocessor_config.json"]
    text = new["README.md"].decode()
    assert f"# {repo_id}" in text and "owner/by-trainer" not in text
    assert "model-index" not in text and "accuracy" not in text and "learning_curve" not in text


def test_the_results_of_other_weights_do_not_stay_in_a_repo(owner, hub, pushed):
    code = """
    trainer = new_trainer("digits", "first", hub_model_id="owner/pushed-twice")
    trainer.train()
    trainer.evaluate()
    trainer.push_to_hub()
    changed(trainer.model).save_pretrained("second")
    loaded("second").push_to_hub("owner/pushed-twice")
    """
    owner.run(code)
    text = hub.files("owner/pushed-twice")["README.md"].decode()
    assert "model-index" not in text and "confusion_matrix.png" not in text


def test_somebodys_own_card_is_kept(owner, hub):
    card = b"---\nlicense: mit\n---\n# My own words\n"
    hub.add_repo("owner/written", {"README.md": card})
    (line,) = owner.run('result = heard(lambda: new_model().push_to_hub("owner/written"))')
    assert "owner/written" in line and "README.md" in line and "kept" in line
    assert hub.files("owner/written")["README.md"] == card
    assert DELTA <= hub.files("owner/written").keys()


@pytest.mark.parametrize("status", [403, *(pytest.param(code, marks=pytest.mark.slow) for code in (429, 500, 503))])
def test_somebodys_own_card_is_kept_where_the_hub_does_not_give_it(owner, hub, status):
    repo_id, card = f"owner/written-{status}", b"# My own words\n"
    hub.add_repo(repo_id, {"README.md": card})
    hub.fault("README.md", "status", None, methods=("GET", "HEAD"), code=status)
    owner.fails("new_model().push_to_hub(repo_id)", repo_id=repo_id)
    assert hub.files(repo_id)["README.md"] == card and "config.json" not in hub.files(repo_id)


def test_our_card_is_renewed(owner, hub):
    code = """
    model = new_model()
    model.push_to_hub("owner/renewed")
    result = heard(lambda: model.push_to_hub("owner/renewed", tags=["brand-new"]))
    """
    assert owner.run(code) == []
    assert "brand-new" in hub.files("owner/renewed")["README.md"].decode()


# During training


STRATEGIES = {  # the steps that are pushed, newest first; the folders that the repo then has
    "end": ([4], {""}),
    "every_save": ([4, 4, 2], {""}),
    "checkpoint": ([4, 4, 2], {"", "last-checkpoint"}),
    "all_checkpoints": ([4, 4, 2], {"", "checkpoint-2", "checkpoint-4"}),
}
STATE = {"config.json", "model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json"}


@pytest.fixture(scope="module")
def trained(owner):
    """Each strategy has filled the repo of its name."""
    code = """
    for name in strategies:
        trainer = new_trainer("digits", f"strategy/{name}", pushing_to=f"owner/{name}", hub_strategy=name)
        trainer.train()
        trainer.push_to_hub()
    """
    owner.run(code, strategies=list(STRATEGIES))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_pushes_what_it_says_and_stays_small(strategy, trained, hub, home):
    repo_id, (steps, folders) = f"owner/{strategy}", STRATEGIES[strategy]
    assert steps_pushed(hub, repo_id, home / "strategy" / strategy) == steps
    files = hub.files(repo_id)
    assert {path.rpartition("/")[0] for path in files} == folders
    top = {path for path in files if "/" not in path}
    assert top == {".gitattributes", "README.md", "learning_curve.png", "preprocessor_config.json", *DELTA}
    for folder in folders - {""}:
        inside = {path.rpartition("/")[2] for path in files if path.startswith(folder + "/")}
        assert STATE <= inside <= {*STATE, "preprocessor_config.json"}
    for files in [hub.files(repo_id, commit) for commit in hub.commits(repo_id)]:
        assert sum(map(len, files.values())) < SMALL + SIZE_OF_PICTURES
        for path, data in files.items():
            assert "training_args" not in path and str(home).encode() not in data, path
    assert list((home / "strategy" / strategy).rglob("training_args.bin"))  # it is there, and stays


def test_every_commit_of_a_training_can_be_loaded(trained, hub, reader):
    commits = hub.commits("owner/every_save")[:-1]
    code = """
    models = [loaded("owner/every_save", revision=oid) for oid in commits]
    result = [models[1].head.bias.equal(models[2].head.bias), models[0].config.id2label[7]]
    """
    assert reader.run(code, commits=commits) == [False, "7"]
    for commit, step in zip(commits, STRATEGIES["every_save"][0], strict=True):
        assert f"Steps: {step}." in hub.files("owner/every_save", commit)["README.md"].decode()


def test_a_pushed_checkpoint_resumes_bit_exactly(owner, reader, hub, home, tmp_path):
    code = """
    often = {"hub_strategy": "checkpoint", "save_steps": 4, "max_steps": 7}
    new_trainer("digits", "whole", pushing_to="owner/resumed", **often).train()
    """
    owner.run(code)
    assert steps_pushed(hub, "owner/resumed", home / "whole") == [7, 4]
    commit = hub.commits("owner/resumed")[1]
    code = """
    snapshot_download("owner/resumed", local_dir=folder, revision=commit, allow_patterns="last-checkpoint/*")
    trainer = new_trainer("digits", folder, save_strategy="steps", save_steps=4, max_steps=7)
    trainer.train(resume_from_checkpoint=folder + "/last-checkpoint")
    result = trainer.state.global_step
    """
    assert reader.run(code, folder=str(tmp_path), commit=commit) == 7
    whole, resumed = home / "whole" / "checkpoint-7", tmp_path / "checkpoint-7"
    assert same_tensors((whole / "model.safetensors").read_bytes(), (resumed / "model.safetensors").read_bytes())
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        states = [torch.load(folder / name, weights_only=False) for folder in (whole, resumed)]
        assert plain(states[0]) == plain(states[1]), name
    histories = [json.loads((folder / "trainer_state.json").read_text())["log_history"] for folder in (whole, resumed)]
    losses = [[row["loss"] for row in history if "loss" in row] for history in histories]
    assert losses[0] == losses[1] and len(losses[0]) == 7


def test_a_link_in_an_output_folder_is_not_uploaded(owner, hub, home):
    code = """
    Path("secret").write_text("secret")
    Path("linked/checkpoint-2").mkdir(parents=True)
    Path("linked/checkpoint-2/notes.txt").symlink_to(Path("secret").absolute())
    Path("linked/tokenizer.json").symlink_to(Path("secret").absolute())
    trainer = new_trainer("digits", "linked", pushing_to="owner/linked", hub_strategy="checkpoint", max_steps=2)
    try:
        trainer.train()
    except ValueError as error:
        result = [trainer.state.global_step, str(error)]
    Path("linked/tokenizer.json").unlink()
    trainer.train()
    """
    step, message = owner.run(code)
    assert step == 0 and "tokenizer.json is a link to" in message
    paths = [path for commit in hub.commits("owner/linked") for path in hub.files("owner/linked", commit)]
    assert "last-checkpoint/optimizer.pt" in paths and "last-checkpoint/notes.txt" not in paths


def plain(state):
    """A nest of states that == compares bit by bit, with lists for tensors and arrays."""
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(map(plain, state))
    return (state.dtype, state.tolist()) if isinstance(state, (torch.Tensor, np.ndarray)) else state


@pytest.mark.parametrize("suffix, status", [("/commit/main", 500), ("/api/repos/create", 503)])
def test_a_failing_upload_does_not_stop_the_training(suffix, status, owner, reader, hub):
    repo_id = f"owner/unlucky-{status}"
    owner.run('kept["trainer"] = new_trainer("digits", repo_id, pushing_to=repo_id)', repo_id=repo_id)
    hub.fault(suffix, "status", None, methods=("POST",), code=status)
    lines, step = owner.run('result = [heard(kept["trainer"].train), kept["trainer"].state.global_step]')
    assert step == 4 and set(hub.files(repo_id)) == {".gitattributes"}
    failures = [line for line in lines if repo_id in line and "failed" in line and str(status) in line]
    assert len(failures) == 2, lines  # each of them once, and by the end of the training
    hub.clear_faults()
    code = 'result = [heard(kept["trainer"].push_to_hub), kept["trainer"].model.head.bias.tolist()]'
    lines, bias = owner.run(code)
    assert lines == []  # what was reported is not reported again
    assert {"README.md", "learning_curve.png", "preprocessor_config.json", *DELTA} <= hub.files(repo_id).keys()
    assert reader.run("result = loaded(repo_id).head.bias.tolist()", repo_id=repo_id) == bias


def test_a_short_outage_costs_nothing(owner, hub):
    hub.fault("/preupload/main", "status", 1, methods=("POST",), code=503)
    owner.run('new_model().push_to_hub("owner/lucky")')
    assert DELTA <= hub.files("owner/lucky").keys()


def test_a_final_push_that_fails_raises(owner, hub):
    hub.fault("/commit/main", "status", None, methods=("POST",), code=500)
    error = owner.fails('new_model().push_to_hub("owner/unlucky")')
    assert "HfHubHTTPError" in error.kinds and "500" in str(error)


def test_uploads_arrive_in_the_order_of_their_steps(owner, hub, home):
    owner.run('kept["trainer"] = new_trainer("digits", "ordered", pushing_to="owner/ordered")')
    hub.fault("/preupload/main", "slow", 1, methods=("POST",), seconds=1)
    owner.run('kept["trainer"].train()')
    assert steps_pushed(hub, "owner/ordered", home / "ordered") == [4, 2]


def test_the_trainers_arguments_say_where_to(owner, hub, home):
    code = """
    to = {"hub_private_repo": True, "hub_revision": "drafts", "hub_token": "hf_owner"}
    trainer = new_trainer("digits", "elsewhere", pushing_to="org/theirs", **to)
    trainer.train()
    trainer.push_to_hub()
    """
    owner.run(code)
    assert steps_pushed(hub, "org/theirs", home / "elsewhere", "drafts") == [4, 4, 2]
    assert set(hub.files("org/theirs")) == {".gitattributes"}
    code = "result = [model.id for model in HfApi().list_models(author='org', token=token)]"
    assert owner.run(code, token="hf_owner") == ["org/theirs"]
    assert owner.run(code, token=False) == []


# The card


def test_the_card_is_valid_and_read_by_the_hubs_client(way, reader, hub, pushed):
    code = """
    card = ModelCard.load(repo_id)
    import huggingface_hub
    if int(huggingface_hub.__version__.partition(".")[0]) >= 2:  # older ones ask huggingface.co whatever the endpoint
        card.validate()
    data = card.data
    results = [[r.dataset_split, r.metric_type, r.metric_value] for r in data.eval_results]
    result = [data.to_dict(), results]
    """
    data, results = reader.run(code, repo_id=way)
    assert (data["base_model"], data["base_model_relation"]) == ("owner/base", "adapter")
    assert data["library_name"] == "fpt_adapters" and "fpt" in data["tags"]
    assert data["fpt_delta_bytes"] == len(hub.files(way)["model.safetensors"])
    scores = {(split, metric): value for split, metric, value in results}
    assert {split for split, _ in scores} == {"validation", "test"}
    for name in [name for name, repo_id in PUSHED.items() if repo_id == way]:
        for split, prefix in (("validation", "eval"), ("test", "test")):
            assert scores[split, "accuracy"] == pushed[name][f"{prefix}_accuracy"]
            assert 0 < scores[split, "accuracy_floor"] < 1


def test_the_card_pins_the_base(way, hub):
    config = json.loads(hub.files(way)["config.json"])
    text = hub.files(way)["README.md"].decode()
    assert config["base_model"] == "owner/base" and config["base_model_revision"] == hub.commits("owner/base")[0]
    assert config["base_model_revision"] in text and config["base_model_fingerprint"] in text


RUN_BLOCKS = """
blocks = re.findall(r"^```python\\n(.*?)^```$", ModelCard.load(repo_id).text, re.MULTILINE | re.DOTALL)
spaces = []
for block in blocks:
    assert repo_id in block, block
    spaces.append({})
    exec(block, spaces[-1])
model = spaces[0]["model"]
trainer = new_trainer(name, folder, model=model)
scores = trainer.evaluate() | trainer.predict(trainer.test_set, metric_key_prefix="test").metrics
classify = next((space["classify"] for space in spaces if "classify" in space), None)
extractor = next((space["extractor"] for space in spaces if "extractor" in space), None)
"""
RIGHT = {  # by task: code that leaves the share of right answers of what the card's code made
    "digits": """
split = trainer.test_set
pictures = split.pixels[split.rows].numpy().astype("uint8")[:, 0]
answers = [classify(Image.fromarray(picture))[0]["label"] for picture in pictures]
right = np.mean([model.config.label2id[answer] == label for answer, label in zip(answers, split.labels)])
""",
    "listops": """
texts = [classify.tokenizer.decode(example["input_ids"]) for example in trainer.test_set]
answers = [model.config.label2id[classify(text)[0]["label"]] for text in texts]
right = np.mean([answer == example["labels"] for answer, example in zip(answers, trainer.test_set)])
""",
    "xor": """
values = [np.asarray(example["input_values"]) for example in trainer.test_set]
labels = torch.stack([example["labels"] for example in trainer.test_set])
with torch.no_grad():
    answers = model(**extractor(values, return_tensors="pt")).logits.argmax(-1)
right = (answers == labels)[labels != -100].float().mean()
""",
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_code_of_a_card_runs(name, reader, pushed, tmp_path):
    code = f"{RUN_BLOCKS}{RIGHT[name]}\nresult = [len(blocks), scores, float(right)]"
    blocks, scores, right = reader.run(code, repo_id=PUSHED[name], name=name, folder=str(tmp_path))
    assert blocks == 2
    wanted = {key: value for key, value in pushed[name].items() if key.endswith(("_accuracy", "_loss"))}
    assert len(wanted) == 4 and {key: scores[key] for key in wanted} == pytest.approx(wanted, abs=1e-6)
    assert right == pytest.approx(wanted["test_accuracy"], abs=1e-6)


# The script


def test_a_data_set_and_a_base_on_the_hub_become_a_delta_on_the_hub(script_run, hub):
    results = json.loads((script_run / "all_results.json").read_text())
    text = hub.files("owner/by-script")["README.md"].decode()
    assert "- owner/pictures" in text.split("---")[1] and "license: mit" in text
    assert f"value: {results['test_accuracy']}" in text and f"value: {results['eval_floor']}" in text
    assert "python examples/run_fpt.py --task_name mnist" in text
    delta = hub.files("owner/by-script")["model.safetensors"]
    assert same_tensors(delta, (script_run / "model.safetensors").read_bytes())


def test_a_pipeline_labels_a_picture_file(script_run, reader, tmp_path):
    file = tmp_path / "picture.png"
    file.write_bytes(png((28, 28), 3))
    code = """
    answers = transformers.pipeline("image-classification", model="owner/by-script")(file)
    model = loaded("owner/by-script")
    pixels = np.asarray(Image.open(file), dtype=np.float32)[None, None] / 255
    with torch.no_grad():
        shares = model(pixel_values=torch.from_numpy(pixels)).logits.softmax(-1)[0]
    result = [answers, {model.config.id2label[i]: float(share) for i, share in enumerate(shares)}]
    """
    answers, shares = reader.run(code, file=str(file))
    assert len(answers) == 5 and set(shares) == {str(i) for i in range(10)}
    for answer in answers:
        assert answer["score"] == pytest.approx(shares[answer["label"]], abs=1e-6)
    assert answers[0]["score"] == pytest.approx(max(shares.values()), abs=1e-6)


# Finding deltas


def card(base="found/base", tags=("fpt",), relation="adapter", task="mnist", results=(), more=""):
    """A card as its metadata: `results` are (split, accuracy, floor)."""
    lines = ["---", f"base_model: {base}", f"base_model_relation: {relation}", "tags:", *(f"- {tag}" for tag in tags)]
    lines += [f"fpt_task: {task}", "fpt_delta_bytes: 1234"] if task else []
    if results:
        lines += ["model-index:", "- name: x", "  results:"]
    for split, accuracy, floor in results:
        lines += ["  - task: {type: image-classification}", f"    dataset: {{type: d, name: d, split: {split}}}"]
        lines += ["    metrics:", f"    - {{type: accuracy, value: {accuracy}}}"]
        lines += [f"    - {{type: accuracy_floor, value: {floor}}}"]
    return "\n".join([*lines, more, "---", "Text"]).encode()


def add_cards(hub):
    cards = {
        "a/good": card(results=[("validation", 0.99, 0.1), ("test", 0.95, 0.11)]),
        "b/better": card(results=[("test", 0.97, 0.11)]),
        "b/silent": card(task=None),
        "b/other-task": card(task="cifar10", results=[("validation", 0.6, 0.1)]),
        "b/other-base": card(base="found/other", results=[("test", 1.0, 0.1)]),
        "b/lora": card(tags=("peft", "lora"), results=[("test", 1.0, 0.1)]),
        "b/finetune": card(relation="finetune", results=[("test", 1.0, 0.1)]),
        "c/boasting": card(results=[("test", 97, 0.1)]),
        "c/text": card(results=[("test", "high", "low")]),
        "c/unsplit": card(results=[("[]", 0.9, 0.1)]),
        "c/odd-task": card(task="[1, 2]"),
    }
    for repo_id, text in cards.items():
        hub.add_repo(repo_id, {"README.md": text, "config.json": b"{}"})
    malformed = {
        "d/broken": b"---\nbase_model: [\n---\n",
        "d/index": card(more="model-index: [3, {results: 4}, {results: [{metrics: 1, dataset: 2}]}]"),
        "d/none": b"",
        "d/words": card(more="model-index: great"),
        "e/self": card(more="self: 1"),
    }
    for repo_id, text in malformed.items():
        hub.add_repo(repo_id, {"README.md": text}, tags=("fpt", "base_model:adapter:found/base"))
    hub.add_repo("owner/hidden", {"README.md": card(results=[("test", 0.5, 0.1)])}, private=True)


@pytest.fixture(scope="module")
def find(hub, reader):
    """Find deltas as somebody else: dicts, and the table of them."""
    add_cards(hub)
    code = """
    import dataclasses
    from fpt_adapters.hub.finding import find_deltas, format_deltas
    found = find_deltas(base, **wanted)
    result = [[dataclasses.asdict(delta) for delta in found], format_deltas(found)]
    """
    return lambda base="found/base", **wanted: reader.run(code, base=base, wanted=wanted)


def test_the_deltas_of_a_base_are_found_the_best_first(find):
    found, text = find()
    assert [delta["repo_id"] for delta in found] == [
        *("b/better", "a/good", "b/other-task", "b/silent", "c/boasting", "c/odd-task", "c/text", "c/unsplit"),
        *("d/broken", "d/index", "d/none", "d/words", "e/self"),
    ]
    good = {"task": "mnist", "metric": "accuracy", "score": 0.95, "floor": 0.11, "split": "test", "delta_bytes": 1234}
    assert good.items() <= found[1].items()
    assert (found[2]["split"], found[2]["score"]) == ("validation", 0.6)
    for delta in found[3:]:
        assert delta["metric"] is None, delta
    lines = text.splitlines()
    assert len(lines) == len(found) + 1
    assert all(word in lines[1] for word in ("b/better", "mnist", "97.0 %", "11.0 %", "test", "1,234"))


@pytest.mark.parametrize(
    "wanted, repos",
    [({"task": "cifar10"}, {"b/other-task"}), ({"author": "a"}, {"a/good"}), ({"task": "no-such-task"}, set())],
)
def test_findings_are_narrowed(find, wanted, repos):
    assert {delta["repo_id"] for delta in find(**wanted)[0]} == repos


def test_findings_are_limited(find):
    assert len(find(limit=2)[0]) == 2


@pytest.mark.parametrize("token, seen", [(None, False), ("hf_stranger", False), ("hf_owner", True)])
def test_private_deltas_are_found_with_a_token_only(find, token, seen):
    assert ("owner/hidden" in {delta["repo_id"] for delta in find(token=token)[0]}) == seen


def test_what_was_pushed_is_found(pushed, find, hub):
    found = {delta["repo_id"]: delta for delta in find("owner/base", task="digits")[0]}
    delta = found["owner/by-trainer"]
    assert (delta["metric"], delta["score"]) == ("accuracy", pushed["digits"]["test_accuracy"])
    assert delta["split"] == "test"
    assert delta["delta_bytes"] == len(hub.files("owner/by-trainer")["model.safetensors"])
    assert 0.1 <= delta["floor"] < 0.3


def test_deltas_are_shown_as_a_table():
    known = DeltaSummary("owner/x", "mnist", "accuracy", 0.9812, 0.1135, "test", 10_000, 1_234_567)
    numbers = DeltaSummary("owner/y", "a\x1b\ntask", "mse", 0.353, 3.25, "test", 10, 5)
    unknown = DeltaSummary("someone/else", None, None, None, None, None, None, None)
    heading, first, second, third = format_deltas([known, numbers, unknown]).splitlines()
    assert heading.split() == ["delta", "task", "metric", "score", "floor", "split", "bytes"]
    assert first.split() == ["owner/x", "mnist", "accuracy", "98.1", "%", "11.3", "%", "test", "1,234,567"]
    assert second.split() == ["owner/y", "a", "task", "mse", "0.353", "3.25", "test", "5"]
    assert third.split() == ["someone/else", "-", "-", "-", "-", "-", "-"]
    assert (known.accuracy, numbers.accuracy) == (0.9812, None)
    assert format_deltas([]).splitlines() == [heading]
