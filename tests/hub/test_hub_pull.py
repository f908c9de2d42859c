"""Loading from the Hub: the right model or a clear error, whatever the network, the repos and the cache do.

`client` has no token; its pauses between two attempts are 100 times shorter, and counted in `time.slept`.
"""

import copy
import hashlib
import json
import os
import pickle
import random
import re
import shutil
import socket
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from client import ClientError
from conftest import signed, tiny_config
from huggingface_hub import __version__ as hub_version
from transformers import AutoModel, AutoModelForImageClassification

from fpt_adapters import FPTForImageClassification

FPT = "fpt_adapters.FPTForImageClassification"
AUTO = "transformers.AutoModelForImageClassification"
PIXELS = "torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)"
FIELDS = {"input_type": "images", "image_size": 8, "num_channels": 1, "patch_size": 2, "num_labels": 10}
CLASSES = (FPT, AUTO)
NAMES = ("config.json", "model.safetensors")

OLD_CLIENT = int(hub_version.partition(".")[0]) < 2  # tries a cut download once, and transformers asks for no commit
needs_new_client = pytest.mark.skipif(OLD_CLIENT, reason="the old clients' own errors differ")

SHORT_PAUSES = """
pause, time.slept = time.sleep, 0.0
def sleep(seconds):
    time.slept += seconds
    pause(seconds / 100)
time.sleep = sleep
"""
SETUP = f"""
import os, time, torch
from huggingface_hub import HfApi

@torch.no_grad()
def outputs(model, pixels={PIXELS}):
    return model(pixel_values=pixels)[0].flatten().tolist()

def built(**kwargs):
    return {FPT}.from_backbone("owner/base", **{FIELDS}, **kwargs).eval()
"""
PUSH = """
torch.manual_seed(0)
model, api = built(cache_dir=cache), HfApi(token="hf_owner")
result = {}
for name in ("v1", "main"):
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    result[name], result["hidden"] = outputs(model), outputs(model.fpt)
    model.push_to_hub("owner/delta", token="hf_owner")
    if name == "v1":
        api.create_tag("owner/delta", tag="v1")
model.add_adapter({"peft_type": "lora", "target_modules": ["c_attn"]})
for name, parameter in model.named_parameters():
    if "lora_B" in name:
        parameter.data.normal_()
result["adapter"] = outputs(model)
model.push_to_hub("owner/with-adapter", token="hf_owner")
model.save_peft_adapter(cache + "/adapter")
api.create_repo("owner/as-peft")
api.upload_folder(repo_id="owner/as-peft", folder_path=cache + "/adapter")
"""
BUILT = """
model = built(revision=revision, cache_dir=cache)
result = [model.config.base_model_fingerprint, model.fpt.backbone.wte.weight.sum().item()]
"""


@dataclass
class Pull:
    """Loads models in a client, through a cache; a call returns the logits (without a head: the hidden states)."""

    client: object
    cache: Path

    def code(self, repo_id="owner/delta", model_class=FPT, pixels=PIXELS, **kwargs):
        kwargs = {"cache_dir": os.fspath(self.cache)} | kwargs
        return f"result = outputs({model_class}.from_pretrained({repo_id!r}, **{kwargs!r}), {pixels})"

    def __call__(self, *args, **kwargs):
        return self.client.run(self.code(*args, **kwargs))

    def fails(self, *args, **kwargs):
        return self.client.fails(self.code(*args, **kwargs))


@pytest.fixture(autouse=True)
def healthy_hub(hub):
    hub.clear_faults()
    hub.clear_log()


@pytest.fixture(scope="module")
def start(make_client):
    """Start a process on the client's machine."""

    def start(**variables):
        client = make_client("client", variables=variables, setup=SETUP)
        client.run(SHORT_PAUSES)
        return client

    return start


@pytest.fixture(scope="module")
def client(start):
    return start()


@pytest.fixture(scope="module")
def other(start):
    return start()


@pytest.fixture(scope="module")
def shared(hub, client, tmp_path_factory):
    """What was pushed: the logits by revision, the repos' files, the commits that they were at."""
    logits = client.run(PUSH, cache=os.fspath(tmp_path_factory.mktemp("pushing")))
    return SimpleNamespace(
        logits=logits,
        base=hub.files("owner/base"),
        delta=hub.files("owner/delta"),
        base_commit=hub.commits("owner/base")[0],
        delta_commit=hub.commits("owner/delta")[0],
    )


@pytest.fixture
def cache(tmp_path):
    """A cache of its own for each test, checked at the end: nothing wrong in it passes for whole."""
    yield tmp_path / "cache"
    check_cache(tmp_path / "cache")


@pytest.fixture
def pull(client, shared, cache):
    return Pull(client, cache)


def check_cache(cache):
    """Every blob under its name has that hash, and every file of a snapshot is a blob; returns the number of blobs."""
    blobs = [blob for blob in cache.glob("*/blobs/*") if not blob.name.endswith(".incomplete")]
    for blob in blobs:
        data = blob.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        assert blob.name in (git, hashlib.sha256(data).hexdigest())
    for file in cache.glob("*/snapshots/*/**/*"):
        assert file.is_dir() or file.resolve() in blobs
    return len(blobs)


def blob_of(cache, repo_id, name):
    """The blob of a file in the cache, where the repo has one snapshot."""
    (file,) = cache.glob(f"models--{repo_id.replace('/', '--')}/snapshots/*/{name}")
    return file.resolve()


def add_delta(hub, repo_id, files, folder="", private=False, **config):
    """Make a repo of a delta with other values in its configuration; returns its commit."""
    values = json.loads(files["config.json"]) | config
    weights = signed(files["model.safetensors"], values)
    files = files | {"config.json": json.dumps(values).encode(), "model.safetensors": weights}
    files = {f"{folder}{name}": data for name, data in files.items()}
    return hub.add_repo(repo_id, files, private=private)


def add_delta_on(hub, shared, name, base, **access):
    """Make a repo owner/<name>-base of a base's files, and owner/on-<name> of the delta on it; the base's commit."""
    commit = hub.add_repo(f"owner/{name}-base", base, **access)
    config = {"base_model": f"owner/{name}-base", "base_model_revision": commit}
    add_delta(hub, f"owner/on-{name}", shared.delta, **config)
    return commit


def backbone_files(folder, seed=3, **changes):
    """The files of another tiny GPT-2."""
    torch.manual_seed(seed)
    return saved(AutoModel.from_config(tiny_config("gpt2", **changes)), folder)


def saved(model, folder):
    """A model's files, saved into a folder."""
    model.save_pretrained(folder)
    return {name: (folder / name).read_bytes() for name in NAMES}


def written(files, folder):
    """The folder, with the model's files in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (folder / name).write_bytes(files[name])
    return folder


def logits_of(model, pixels=PIXELS):
    """What a `Pull` returns, of a model in this process."""
    with torch.no_grad():
        return model.eval()(pixel_values=eval(pixels)).logits.flatten().tolist()


def fetched(hub, repo_id):
    """The requests about a repo."""
    return [request for request in hub.requests if request.repo == ("model", repo_id)]


# What is pulled


@pytest.mark.parametrize("model_class", [FPT, AUTO, "fpt_adapters.FPTModel", "transformers.AutoModel"])
def test_every_class_gives_the_pushed_model_bit_for_bit(pull, shared, model_class):
    assert shared.logits["v1"] != shared.logits["main"]
    if model_class in CLASSES:
        assert pull(model_class=model_class) == shared.logits["main"]
        assert pull(model_class=model_class, revision="v1") == shared.logits["v1"]
    else:
        assert pull(model_class=model_class) == shared.logits["hidden"]


def test_only_what_is_new_is_pulled(hub, pull, shared):
    pull()
    for repo_id, files in (("owner/delta", shared.delta), ("owner/base", shared.base)):
        assert hub.pulled_bytes(repo_id) == sum(len(files[name]) for name in NAMES)
    hub.clear_log()
    pull(revision="v1")
    assert hub.pulled_bytes("owner/delta") > 0
    asked_again = {"adapter_config.json"} if OLD_CLIENT else set()  # what is not there old clients forget
    assert {request.path.rpartition("/")[2] for request in fetched(hub, "owner/base")} == asked_again
    hub.clear_log()
    for model_class in CLASSES:
        pull(model_class=model_class)
    assert hub.pulled_bytes("owner/delta") == hub.pulled_bytes("owner/base") == 0


def test_a_delta_of_gpt2_size_pulls_less_than_a_megabyte(hub, client, gpt2_base, tmp_path, cache):
    assert (gpt2_base.config.base_model_config.n_layer, gpt2_base.config.base_model_config.n_embd) == (12, 768)
    assert sum(p.numel() for p in gpt2_base.parameters() if p.requires_grad) == 132_874
    hub.add_repo("owner/gpt2-size", saved(gpt2_base, tmp_path / "delta"))
    pixels = "torch.linspace(-1, 1, 3072).reshape(1, 3, 32, 32)"
    wanted = logits_of(copy.deepcopy(gpt2_base), pixels)
    pull = Pull(client, cache)
    assert pull("owner/gpt2-size", AUTO, pixels) == wanted
    assert 4 * 132_874 < hub.pulled_bytes("owner/gpt2-size") < 1_000_000
    hub.clear_log()
    assert pull("owner/gpt2-size", AUTO, pixels) == wanted
    assert hub.pulled_bytes("owner/gpt2-size") == 0


# Whose revision, subfolder and token


ADAPTER = {"adapter_config.json": b'{"base_model_name_or_path": "owner/base", "peft_type": "LORA"}'}


def test_the_base_is_fetched_at_its_commit_after_its_main_branch_moved(hub, pull, shared, tmp_path):
    pinned = add_delta_on(hub, shared, "moving", shared.base)
    hub.add_repo("owner/moving-base", backbone_files(tmp_path / "other") | ADAPTER)
    assert pull("owner/on-moving") == shared.logits["main"]
    paths = {request.path for request in fetched(hub, "owner/moving-base")}
    assert paths and all(path.startswith(f"/owner/moving-base/resolve/{pinned}/") for path in paths)


def test_an_adapter_beside_the_base_neither_enters_nor_replaces_it(hub, pull, shared):
    add_delta_on(hub, shared, "adapted", shared.base | ADAPTER)
    error = pull.fails("owner/on-adapted")
    assert "ValueError" in error.kinds and "'owner/adapted-base' holds a peft adapter" in str(error)
    assert not fetched(hub, "owner/base")


@pytest.mark.parametrize("model_class", CLASSES)
def test_revision_subfolder_and_token_of_the_delta_never_reach_the_base(hub, pull, shared, model_class):
    repo_id = f"owner/private-{CLASSES.index(model_class)}"
    commit = add_delta(hub, repo_id, shared.delta, folder="best/", private=True)
    hub.add_repo(repo_id, {"best/model.safetensors": b"of a later commit"})
    got = pull(repo_id, model_class, revision=commit, subfolder="best", token="hf_owner")
    assert got == shared.logits["main"]
    own, base = fetched(hub, repo_id), fetched(hub, "owner/base")
    assert {request.token for request in own} == {"hf_owner"}
    assert f"/{repo_id}/resolve/{commit}/best/model.safetensors" in {request.path for request in own}
    assert {request.token for request in base} == {None}
    asked = {request.path.removeprefix(f"/owner/base/resolve/{shared.base_commit}/") for request in base}
    assert asked - {"adapter_config.json"} == set(NAMES)  # which transformers looks for where there is peft


def test_a_private_base_wants_the_login_and_not_the_token_of_the_delta(hub, client, pull, shared):
    add_delta_on(hub, shared, "secret", shared.base, private=True)
    error = pull.fails("owner/on-secret", token="hf_owner")
    assert error.kinds[0] == "RepositoryNotFoundError" and "the base 'owner/secret-base'" in str(error)
    assert {request.token for request in hub.requests if "secret-base" in request.path} == {None}
    client.run('os.environ["HF_TOKEN"] = "hf_owner"')
    try:
        assert pull("owner/on-secret") == shared.logits["main"]
    finally:
        client.run('del os.environ["HF_TOKEN"]')


@pytest.mark.parametrize("model_class", CLASSES)
def test_an_adapter_comes_with_the_delta(hub, pull, shared, model_class):
    assert "lora" in hub.files("owner/with-adapter")["README.md"].decode()
    assert pull("owner/with-adapter", model_class) == shared.logits["adapter"]
    assert shared.logits["adapter"] != shared.logits["main"]


def test_a_peft_repo_is_taken(client, shared, cache):
    code = """
    model = built(cache_dir=cache)
    model.load_adapter("owner/as-peft", cache_dir=cache)
    result = outputs(model)
    """
    assert client.run(code, cache=os.fspath(cache)) == shared.logits["adapter"]


# What cannot be found


@pytest.fixture(scope="module")
def incomplete(hub, shared, tmp_path_factory):
    """Deltas whose bases are gone, replaced, private, gated or missing, and a private delta."""
    add_delta(hub, "owner/on-gone-commit", shared.delta, base_model_revision="0" * 40)
    add_delta(hub, "owner/on-missing", shared.delta, base_model="owner/missing-base")
    add_delta_on(hub, shared, "private", shared.base, private=True)
    add_delta_on(hub, shared, "gated", shared.base, gated=True)
    add_delta_on(hub, shared, "replaced", backbone_files(tmp_path_factory.mktemp("replaced")))
    add_delta(hub, "owner/private-delta", shared.delta, private=True)


@pytest.mark.parametrize(
    "repo_id, revision, kind, text",
    [
        ("owner/on-gone-commit", None, "RevisionNotFoundError", "the base 'owner/base'.*base_model_name_or_path"),
        ("owner/on-replaced", None, "DeltaError", "Another base: 'owner/replaced-base'"),
        ("owner/on-private", None, "RepositoryNotFoundError", "the base 'owner/private-base'"),
        ("owner/on-gated", None, "GatedRepoError", "the base 'owner/gated-base'"),
        ("owner/on-missing", None, "RepositoryNotFoundError", "the base 'owner/missing-base'"),
        ("owner/private-delta", None, "RepositoryNotFoundError", "the delta 'owner/private-delta', not its base"),
        ("owner/no-delta", None, "RepositoryNotFoundError", "the delta 'owner/no-delta', not its base"),
        ("owner/delta", "v9", "RevisionNotFoundError", "the delta 'owner/delta', not its base"),
    ],
)
def test_an_error_is_the_hubs_own_and_says_whether_it_is_about_delta_or_base(
    pull, incomplete, repo_id, revision, kind, text
):
    own, auto = (pull.fails(repo_id, model_class, revision=revision) for model_class in CLASSES)
    assert own.kinds[0] == kind and re.search(text, str(own), re.DOTALL)
    if "delta '" in text:  # transformers reads the configuration first
        kind, text = "OSError", repo_id
    assert auto.kinds[0] == kind and re.search(text, str(auto), re.DOTALL)


# A bad connection


FAULTS = {
    "cut once": ("cut", 1, "right"),
    "cut always": ("cut", None, "OSError"),
    "503 once": ("status", 1, "right or OSError"),
    "503 always": ("status", None, "OSError"),
    "slow": ("slow", 1, "right"),
    "corrupt once": ("corrupt", 1, "right"),
    "corrupt always": ("corrupt", None, "DeltaError"),
}
DELTA_CAME = r"the delta 'owner/delta', not its base|of owner/delta came damaged"
BASE_CAME = r"the base 'owner/base'|of (the base )?owner/base came damaged"


def check_outcome(pull, wanted, expected, whose, **kwargs):
    """Load a model: it has the right logits, or fails as expected, saying whose file it was."""
    try:
        got = pull(**kwargs)
    except ClientError as error:
        kind = "OSError" if OLD_CLIENT and expected == "right" else expected.rpartition(" ")[2]
        assert kind in error.kinds and re.search(whose, str(error)), f"{error.kinds[0]}: {error}"
    else:
        assert expected.startswith("right") and got == wanted


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("of", ["delta", "base"])
def test_a_fault_in_a_download_gives_the_right_model_or_an_error(hub, pull, shared, of, name, fault):
    kind, times, expected = FAULTS[fault]
    if of == "delta":
        commit, whose, kwargs = shared.delta_commit, DELTA_CAME, {"revision": shared.delta_commit}
    else:
        commit, whose, kwargs = shared.base_commit, BASE_CAME, {"model_class": AUTO}
    hub.fault(f"{commit}/{name}", kind, times, seconds=0.3)
    check_outcome(pull, shared.logits["main"], expected, whose, **kwargs)
    check_cache(pull.cache)
    hub.clear_faults()
    assert pull(**kwargs) == shared.logits["main"]
    assert check_cache(pull.cache) == 4


@needs_new_client
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if "corrupt" not in fault])
def test_a_fault_in_the_download_of_the_config_through_the_autos(hub, pull, shared, fault):
    kind, times, expected = FAULTS[fault]
    hub.fault(f"owner/delta/resolve/{shared.delta_commit}/config.json", kind, times, seconds=0.3)
    if fault == "cut always":  # transformers lets the HTTP client's own error through
        expected = "Exception"
    check_outcome(pull, shared.logits["main"], expected, "", model_class=AUTO)
    check_cache(pull.cache)
    hub.clear_faults()
    assert pull(model_class=AUTO) == shared.logits["main"]


@needs_new_client
def test_a_config_that_comes_damaged_through_the_autos_is_mended_by_our_classes(hub, client, shared, tmp_path):
    pull = Pull(client, tmp_path / "unchecked")  # transformers reads a configuration before any class of ours is known
    hub.fault(f"owner/delta/resolve/{shared.delta_commit}/config.json", "corrupt", 1)
    error = pull.fails(model_class=AUTO)
    assert {"OSError", "ValueError"} & set(error.kinds)
    for model_class in CLASSES:
        assert pull(model_class=model_class) == shared.logits["main"]
    assert check_cache(pull.cache) == 4


def test_a_hub_that_is_busy_for_a_moment_is_asked_again(hub, pull, shared):
    hub.fault("config.json", "status", 2, methods=("HEAD",))
    assert pull() == shared.logits["main"]


def slept_in_vain(pull, model_class=FPT):
    """The error of a load that must fail, and the seconds that it waited between its attempts."""
    pull.client.run("time.slept = 0.0")
    error = pull.fails(model_class=model_class)
    assert "OSError" in error.kinds
    return str(error), pull.client.run("result = time.slept")


def test_a_hub_that_stays_busy_is_given_up_on(hub, pull, shared):
    hub.fault("config.json", "status", None, methods=("GET", "HEAD"))
    error, slept = slept_in_vain(pull)
    assert "the delta 'owner/delta', not its base" in error and slept < 30
    hub.clear_faults()
    assert pull() == shared.logits["main"]


@pytest.mark.parametrize("always", [False, True], ids=["once", "always"])
@pytest.mark.parametrize("which", ["a delta's", "a new model's"])
def test_no_weight_is_built_on_that_came_damaged(hub, client, pull, shared, which, always):
    code, values = pull.code(), {}
    if which == "a new model's":
        code, values = BUILT, {"revision": shared.base_commit, "cache": os.fspath(pull.cache)}
    hub.fault(f"{shared.base_commit}/model.safetensors", "corrupt", None if always else 1)
    if always:
        error = client.fails(code, **values)
        assert error.kinds[0] == "DeltaError" and "owner/base came damaged 2 times" in str(error)
        hub.clear_faults()
    got = client.run(code, **values)
    assert check_cache(pull.cache)
    assert got == (shared.logits["main"] if which == "a delta's" else client.run(code, **values))


def test_what_a_killed_process_left_is_checked(hub, pull, shared):
    """It was fetched, and its process ended before it was looked at."""
    pull()
    blob = blob_of(pull.cache, "owner/base", "model.safetensors")
    data = bytearray(blob.read_bytes())
    data[-100] ^= 1
    blob.write_bytes(data)
    hub.clear_log()
    assert pull() == shared.logits["main"] and hub.pulled_bytes("owner/base") == len(data)
    hub.clear_log()
    shutil.rmtree(blob.parents[1] / ".fpt_checked")
    assert pull() == shared.logits["main"] and hub.pulled_bytes("owner/base") == 0


# The cache


@pytest.mark.parametrize("name", NAMES)
def test_a_blob_that_rots_in_the_cache_is_noticed_and_fetched_again(hub, pull, shared, name):
    pull()
    blob = blob_of(pull.cache, "owner/delta", name)
    data = blob.read_bytes()
    blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    hub.clear_log()
    assert pull() == shared.logits["main"] and hub.pulled_bytes("owner/delta") == len(data)
    assert blob.read_bytes() == data


def test_no_model_is_built_of_a_config_that_rots_into_another_valid_one(pull, shared):
    pull(model_class=AUTO)
    blob = blob_of(pull.cache, "owner/delta", "config.json")
    data = blob.read_bytes()
    assert data.count(b'"pooling": "last"') == 1
    blob.write_bytes(data.replace(b'"pooling": "last"', b'"pooling": "mean"'))
    check_outcome(pull, shared.logits["main"], "right or DeltaError", "owner/delta", model_class=AUTO)
    assert pull(model_class=AUTO) == shared.logits["main"]


def test_two_processes_that_pull_at_once_into_one_cache(hub, client, other, pull, shared):
    for name in NAMES:
        hub.fault(name, "slow", None, seconds=0.4)
    for one in (client, other):
        one.send(pull.code(model_class=AUTO))
    assert [one.receive() for one in (client, other)] == [shared.logits["main"]] * 2
    assert check_cache(pull.cache) == 4


def ending(client, wanted):
    """How a load that was begun ended: "right", "refused" for an error that it may end with, else what came."""
    try:
        got = client.receive()
    except ClientError as error:
        allowed = {"OSError", "ValueError", "TypeError", "StrictDataclassError"} & set(error.kinds)
        return "refused" if allowed else f"wrong: {error.kinds[0]}: {error}\n{error.trace}"
    return "right" if got == wanted else f"wrong: {got}"


@needs_new_client
@pytest.mark.parametrize("rounds", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_two_processes_pull_while_every_tenth_transfer_has_a_wrong_bit(
    rounds, hub, client, other, shared, tmp_path, record_property
):
    """Both go on from round to round, since what they share is the cache, and each round has a new one.

    Afterwards our own class comes first: a config.json that transformers cannot read stays until it is looked at.
    """
    fault, draws = hub.fault(NAMES, "corrupt", None, every=10, count=1), random.Random(rounds)
    endings, again, seconds = Counter(), Counter(), []
    for number in range(rounds):
        pull = Pull(client, tmp_path / str(number))
        fault.times, fault.options["at"], fault.options["mask"] = None, draws.random(), 1 << draws.randrange(8)
        start = time.monotonic()
        for one in (client, other):
            one.send(pull.code(model_class=draws.choice(CLASSES)))
            time.sleep(draws.choice((0, 0, draws.uniform(0, 0.1))))
        endings.update([ending(one, shared.logits["main"]) for one in (client, other)])
        seconds.append(time.monotonic() - start)
        fault.times = 0
        for one, model_class in zip((client, other), CLASSES, strict=True):
            one.send(pull.code(model_class=model_class))
            again[ending(one, shared.logits["main"])] += 1
        assert check_cache(pull.cache) == 4
        shutil.rmtree(pull.cache)
    text = (
        f"{rounds} rounds of two processes, {fault.seen} transfers, {fault.struck} with a wrong bit: {dict(endings)}, "
        f"the Hub being well again {dict(again)}; the slowest round {max(seconds):.1f} s"
    )
    print(text)
    record_property("counts", text)
    assert not [ending for ending in endings if ending.startswith("wrong")] and again == {"right": 2 * rounds}
    assert fault.struck == fault.seen // 10 > 0


# No network


@pytest.fixture
def warm(pull):
    """A cache that holds the delta and its base."""
    pull()
    return pull.cache


@pytest.fixture(scope="module")
def cut_off(start):
    """A client whose Hub refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return start(HF_ENDPOINT=f"http://127.0.0.1:{port}")


HERE = (FPTForImageClassification, AutoModelForImageClassification)  # in this process, which is offline


@pytest.mark.parametrize("model_class", HERE)
def test_offline_a_warm_cache_is_enough(shared, warm, model_class):
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert logits_of(model_class.from_pretrained("owner/delta", cache_dir=warm)) == shared.logits["main"]


def test_offline_a_cold_cache_is_an_error_that_says_whose_file_lacks(warm, tmp_path):
    start = time.monotonic()
    for model_class, message in zip(
        HERE, ("the delta 'owner/delta', not its base", "owner/delta|cached files"), strict=True
    ):
        with pytest.raises(OSError, match=message):
            model_class.from_pretrained("owner/delta", cache_dir=tmp_path / "cold")
    shutil.rmtree(warm / "models--owner--base")
    for model_class in HERE:
        with pytest.raises(OSError, match="the base 'owner/base'"):
            model_class.from_pretrained("owner/delta", cache_dir=warm)
    assert time.monotonic() - start < 5


@needs_new_client
def test_a_hub_that_is_gone_is_no_matter_with_a_warm_cache(cut_off, shared, warm):
    start = time.monotonic()
    for model_class in CLASSES:
        assert Pull(cut_off, warm)(model_class=model_class) == shared.logits["main"]
    assert time.monotonic() - start < 5


@needs_new_client
def test_a_hub_that_is_gone_is_an_error_with_a_cold_cache(cut_off, warm, tmp_path):
    cold = [slept_in_vain(Pull(cut_off, tmp_path / "cold"), model_class) for model_class in CLASSES]
    assert "the delta 'owner/delta', not its base" in cold[0][0]
    shutil.rmtree(warm / "models--owner--base")
    half = [slept_in_vain(Pull(cut_off, warm), model_class) for model_class in CLASSES]
    assert all("the base 'owner/base'" in error for error, _ in half)
    assert max(slept for _, slept in cold + half) < 70  # Auto classes also ask for both adapter_config.json


# A push while it is loaded


def run_while_pushing(hub, client, code, asked_for, push):
    """Run code, and push as soon as a file was asked for; returns the result."""
    client.send(code)
    while not any(request.method == "GET" and request.path.endswith(asked_for) for request in list(hub.requests)):
        time.sleep(0.01)
    push()
    return client.receive()


@pytest.fixture
def racing(hub, shared, request, tmp_path):
    """A delta's repo, the files of another delta with another pooling, and the other's logits."""
    repo_id = f"owner/racing-{hashlib.sha256(request.node.name.encode()).hexdigest()[:8]}"
    hub.add_repo(repo_id, shared.delta)
    torch.manual_seed(4)
    base = written(shared.base, tmp_path / "base")
    model = FPTForImageClassification.from_backbone(base, base_model="owner/base", pooling="mean", **FIELDS)
    model.config.base_model_revision = shared.base_commit
    return repo_id, saved(model, tmp_path / "after"), logits_of(model)


@needs_new_client
@pytest.mark.parametrize("model_class", CLASSES)
def test_a_push_between_configuration_and_weights_mixes_nothing(hub, client, shared, pull, racing, model_class):
    name, after, logits = racing
    before = hub.commits(name)[0]
    hub.fault("/config.json", "slow", 1, seconds=0.5)
    code = pull.code(name, model_class)
    got = run_while_pushing(hub, client, code, "/config.json", lambda: hub.add_repo(name, after))
    assert got == shared.logits["main"]
    weights = {request.path for request in fetched(hub, name) if request.path.endswith("model.safetensors")}
    assert weights == {f"/{name}/resolve/{before}/model.safetensors"}
    assert client.run(code) == logits


def test_a_push_behind_the_configuration_that_the_autos_read_mixes_nothing(hub, client, shared, pull, racing):
    name, after, logits = racing
    hub.fault(f"/api/models/{name}", "status", None)  # so that transformers does not settle on a commit first
    hub.fault("/config.json", "slow", 1, seconds=0.5)
    code = pull.code(name, AUTO)
    try:
        got = run_while_pushing(hub, client, code, "/config.json", lambda: hub.add_repo(name, after))
    except ClientError as error:
        assert "DeltaError" in error.kinds and name in str(error)
    else:
        assert got in (shared.logits["main"], logits)
    assert client.run(code) == logits


# Repos that mean harm


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


def code_that_writes(marker):
    """A module, for any name that an auto_map may give its classes."""
    code = f"import os\nos.mkdir({os.fspath(marker)!r})\n"
    exec(code)
    marker.rmdir()
    return code.encode()


def pickle_that_writes(marker):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (os.fspath(marker),)

    data = pickle.dumps(Harm())
    pickle.loads(data)
    marker.rmdir()
    return data


@pytest.mark.parametrize("base_model", ["here", "owner/here"])
def test_a_base_that_names_a_folder_where_one_works_is_refused(hub, pull, shared, home, base_model):
    written(shared.base, home / base_model)
    repo_id = f"owner/on-folder-{len(base_model)}"
    add_delta(hub, repo_id, shared.delta, base_model=base_model, base_model_revision=None)
    for model_class in CLASSES:
        error = pull.fails(repo_id, model_class)
        assert error.kinds[0] == "DeltaError" and "a folder has that name" in str(error)


@pytest.mark.parametrize("base_model", ["./here", "../here", "/tmp", "a/b/c", "."])
def test_a_base_that_is_a_path_is_refused(hub, pull, shared, base_model):
    repo_id = f"owner/on-path-{sum(base_model.encode())}"
    add_delta(hub, repo_id, shared.delta, base_model=base_model)
    for model_class in CLASSES:
        error = pull.fails(repo_id, model_class)
        assert "ValueError" in error.kinds and "never a path" in str(error)
    assert not any("on-path" not in request.path for request in hub.requests)


@pytest.mark.parametrize("model_class", CLASSES)
def test_a_pickle_is_never_opened(hub, pull, shared, marker, model_class):
    harm = {"pytorch_model.bin": pickle_that_writes(marker)}
    hub.add_repo("owner/pickle", {"config.json": shared.delta["config.json"]} | harm)
    add_delta_on(hub, shared, "pickle", {"config.json": shared.base["config.json"]} | harm)
    for repo_id, kwargs, kind, message in (
        ("owner/pickle", {}, "OSError", "the delta 'owner/pickle', not its base"),
        ("owner/on-pickle", {}, "OSError", "the base 'owner/pickle-base'"),
        ("owner/pickle", {"use_safetensors": False}, "ValueError", "safetensors only"),
    ):
        error = pull.fails(repo_id, model_class, **kwargs)
        assert kind in error.kinds and message in str(error)
    assert not any("pytorch_model.bin" in request.path for request in hub.requests if request.bytes_sent)
    assert not marker.exists()


def check_no_code_ran(hub, marker):
    assert not any("harm.py" in request.path for request in hub.requests)
    assert not marker.exists()


def test_code_beside_a_delta_is_not_run_where_the_library_is_installed(hub, pull, shared, marker):
    auto_map = {"AutoConfig": "harm.FPTConfig", "AutoModelForImageClassification": "harm.FPTForImageClassification"}
    files = shared.delta | {"harm.py": code_that_writes(marker)}
    add_delta(hub, "owner/code", files, auto_map=auto_map)
    for model_class, kwargs in ((AUTO, {}), (AUTO, {"trust_remote_code": True}), (FPT, {})):
        assert pull("owner/code", model_class, **kwargs) == shared.logits["main"]
    check_no_code_ran(hub, marker)


def test_trust_in_a_delta_is_none_in_its_base(hub, pull, tmp_path, marker):
    auto_map = {"AutoConfig": "harm.GPT2Config", "AutoModel": "harm.GPT2Model"}
    base = backbone_files(tmp_path / "base", auto_map=auto_map) | {"harm.py": code_that_writes(marker)}
    assert json.loads(base["config.json"])["auto_map"] == auto_map
    commit = hub.add_repo("owner/code-base", base)
    model = FPTForImageClassification.from_backbone(tmp_path / "base", base_model="owner/code-base", **FIELDS)
    files = saved(model, tmp_path / "delta")
    nested = json.loads(files["config.json"])["base_model_config"]
    for base_config in (nested, nested | {"auto_map": auto_map}):
        add_delta(hub, "owner/on-code", files, base_model_revision=commit, base_model_config=base_config)
        for model_class in CLASSES:
            assert pull("owner/on-code", model_class, trust_remote_code=True) == logits_of(model)
    check_no_code_ran(hub, marker)
