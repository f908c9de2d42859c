"""The stand-in of the Hub (`hub_server.py`), used by the Hub's own clients, each in a fresh process."""

import base64
import hashlib
import http.client
import inspect
import io
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pyarrow
import pyarrow.parquet
import pytest
from hub_server import LFS_SIZE, StandInHub, check_card
from transformers import GPT2Config

CARD = """---
license: mit
library_name: fpt_adapters
pipeline_tag: image-classification
base_model: openai-community/gpt2
base_model_relation: adapter
datasets: [uoft-cs/cifar10]
tags: [fpt, image-classification]
model-index:
- name: a delta
  results:
  - task: {type: image-classification}
    dataset: {type: uoft-cs/cifar10, name: CIFAR-10}
    metrics:
    - {type: accuracy, value: 0}
---
# A delta
"""
GUARD = """
import json, socket, sys

strays = []
look_up, connect = socket.getaddrinfo, socket.socket.connect

def guarded_look_up(host, *args, **kwargs):
    strays.extend([host] if host != "127.0.0.1" else [])
    return look_up("127.0.0.1", *args, **kwargs)

def guarded_connect(self, address):
    if self.family != socket.AF_UNIX and address[0] != "127.0.0.1":
        strays.append(address)
        raise OSError("Not on the loopback interface")
    return connect(self, address)

socket.getaddrinfo, socket.socket.connect = guarded_look_up, guarded_connect
"""


def in_fresh_process(function, environment, *arguments):
    """What a function returns, called in a process of its own that may talk to the loopback interface alone."""
    source = f"{GUARD}\n{inspect.getsource(function)}\nresult = {function.__name__}(*json.loads(sys.argv[1]))"
    source += "\nprint('\\n' + json.dumps({'result': result, 'strays': strays}))"
    command = [sys.executable, "-c", source, json.dumps(arguments)]
    home = environment["HF_HOME"]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["strays"] == []
    return answer["result"]


@pytest.fixture(scope="module")
def hub():
    with StandInHub() as hub:
        yield hub


def ask(hub, method, path, body=None, token=None, **headers):
    """Status, headers and body of the answer to one bare request."""
    connection = http.client.HTTPConnection(urlsplit(hub.url).netloc, timeout=30)
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def push(folder, card):
    from pathlib import Path

    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    api, seen = HfApi(), {}

    def status_of(call, *args, **kwargs):
        try:
            return call(*args, **kwargs) and 200
        except HfHubHTTPError as error:
            return [type(error).__name__, error.response.status_code]

    def commit(*operations, **kwargs):
        return api.create_commit("owner/pushed", list(operations), commit_message="Change", **kwargs)

    seen["user"] = api.whoami()["name"]
    seen["created"] = [api.create_repo(name).repo_id for name in ("pushed", "owner/also", "org/shared")]
    seen["again"] = api.create_repo("owner/pushed", exist_ok=True).repo_id
    seen["taken"] = status_of(api.create_repo, "owner/pushed")
    seen["foreign"] = status_of(api.create_repo, "stranger/model")
    seen["dataset"] = str(api.create_repo("owner/rows", repo_type="dataset"))
    api.create_repo("owner/secret", private=True)
    seen["private"] = [api.model_info(name).private for name in ("owner/secret", "owner/also")]
    seen["first"] = api.upload_folder(repo_id="owner/pushed", folder_path=folder).oid
    seen["unchanged"] = api.upload_folder(repo_id="owner/pushed", folder_path=folder).oid
    (Path(folder) / "config.json").write_text("{}")
    seen["second"] = api.upload_folder(repo_id="owner/pushed", folder_path=folder).oid

    text = CommitOperationAdd("text.txt", b"text")
    seen["stale"] = status_of(commit, text, parent_commit=seen["first"])
    text = CommitOperationAdd("text.txt", b"text")
    seen["half"] = status_of(commit, text, CommitOperationDelete("missing.txt"))
    seen["nowhere"] = status_of(commit, CommitOperationAdd("text.txt", b"text"), revision="missing")
    try:
        commit(CommitOperationAdd("README.md", card.replace("license: mit", "license: my-own").encode()))
    except ValueError as error:
        seen["bad card"] = str(error)
    text = CommitOperationAdd("text.txt", b"text")
    seen["third"] = commit(text, CommitOperationDelete("sub/"), parent_commit=seen["second"]).oid

    pull = commit(CommitOperationAdd("pull.txt", b"pull"), create_pr=True)
    seen["pull"] = [pull.pr_revision, pull.pr_url, pull.oid]
    old = CommitOperationAdd("old.txt", b"old")
    seen["old pull"] = commit(old, create_pr=True, parent_commit=seen["first"]).oid
    seen["later pull"] = commit(CommitOperationAdd("pull.txt", b"more"), revision="refs/pr/1").oid

    api.create_branch("owner/pushed", branch="try/one", revision=seen["first"])
    seen["branch taken"] = status_of(api.create_branch, "owner/pushed", branch="try/one")
    api.create_branch("owner/pushed", branch="try/one", exist_ok=True)
    seen["branch"] = commit(CommitOperationAdd("branch.txt", b"branch"), revision="try/one").oid
    api.create_branch("owner/pushed", branch="gone")
    api.delete_branch("owner/pushed", branch="gone")
    seen["branch missing"] = status_of(api.delete_branch, "owner/pushed", branch="gone")
    seen["branch main"] = status_of(api.delete_branch, "owner/pushed", branch="main")
    seen["branch refs"] = status_of(api.create_branch, "owner/pushed", branch="refs/pr/9")
    api.create_tag("owner/pushed", tag="v1", revision=seen["first"])
    api.create_tag("owner/pushed", tag="v0")
    api.delete_tag("owner/pushed", tag="v0")
    seen["onto a tag"] = status_of(commit, CommitOperationAdd("text.txt", b"tag"), revision="v1")
    seen["tag taken"] = status_of(api.create_tag, "owner/pushed", tag="v1")
    refs = api.list_repo_refs("owner/pushed", include_pull_requests=True)
    seen["refs"] = [{ref.name: ref.target_commit for ref in f} for f in (refs.branches, refs.tags, refs.pull_requests)]

    def read(name, **kwargs):
        return Path(hf_hub_download("owner/pushed", name, **kwargs)).read_text()

    seen["read"] = {
        revision: read(name, revision=revision)
        for revision, name in {
            "v1": "config.json",
            "main": "config.json",
            seen["first"]: "config.json",
            "try/one": "branch.txt",
            "refs/pr/1": "pull.txt",
        }.items()
    }
    seen["no file"] = status_of(read, "missing.txt")
    seen["no revision"] = status_of(read, "config.json", revision="gone")
    seen["no repo"] = status_of(api.model_info, "owner/missing")
    return seen


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    (folder / "sub").mkdir()
    contents = {
        "README.md": CARD.encode(),
        "config.json": b'{"a": 1}',
        "empty.bin": b"",
        "model.safetensors": bytes(range(256)) * 1000,
        "sub/picture.png": b"\x89PNG",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    with StandInHub() as hub:
        environment = hub.environment(tmp_path_factory.mktemp("home"), token="hf_owner")
        yield hub, contents, in_fresh_process(push, environment, str(folder), CARD)


def test_repos_are_created_where_their_maker_may(pushed):
    hub, _, seen = pushed
    assert seen["user"] == "owner"
    assert seen["created"] == ["owner/pushed", "owner/also", "org/shared"]
    assert seen["again"] == "owner/pushed"
    assert seen["taken"] == ["HfHubHTTPError", 409]
    assert seen["foreign"] == ["HfHubHTTPError", 403]
    assert seen["dataset"] == f"{hub.url}/datasets/owner/rows"
    assert seen["private"] == [True, False]
    assert list(hub.files("owner/also")) == [".gitattributes"]


def test_uploads_arrive_as_they_were(pushed):
    hub, contents, seen = pushed
    files = hub.files("owner/pushed", seen["first"])
    assert {name: data for name, data in files.items() if name != ".gitattributes"} == contents
    assert seen["unchanged"] == seen["first"] != seen["second"]
    stored = [r.body for r in hub.requests if r.method == "PUT"]
    assert sorted(stored, key=len) == [contents["sub/picture.png"], contents["model.safetensors"]]  # never again


def test_commits_are_whole_and_in_order(pushed):
    hub, contents, seen = pushed
    assert hub.commits("owner/pushed")[:3] == [seen["third"], seen["second"], seen["first"]]
    assert len(hub.commits("owner/pushed")) == 4  # the Hub's own first one, too
    assert "text.txt" not in hub.files("owner/pushed", seen["second"])
    assert set(hub.files("owner/pushed")) == {*contents, ".gitattributes", "text.txt"} - {"sub/picture.png"}
    assert seen["stale"] == ["HfHubHTTPError", 412]
    assert seen["half"] == ["RemoteEntryNotFoundError", 404]
    assert seen["nowhere"] == ["RevisionNotFoundError", 404]
    assert '"license" must be one of the known licenses' in seen["bad card"]


def test_pull_requests_leave_the_branch_alone(pushed):
    hub, _, seen = pushed
    assert seen["pull"][:2] == ["refs/pr/1", f"{hub.url}/owner/pushed/discussions/1"]
    assert hub.files("owner/pushed", seen["pull"][2])["pull.txt"] == b"pull"
    assert hub.commits("owner/pushed", "refs/pr/1")[:3] == [seen["later pull"], seen["pull"][2], seen["third"]]
    assert hub.commits("owner/pushed", "refs/pr/2")[:2] == [seen["old pull"], seen["first"]]


def test_branches_and_tags(pushed):
    hub, _, seen = pushed
    assert seen["branch taken"] == seen["tag taken"] == ["HfHubHTTPError", 409]
    assert hub.commits("owner/pushed", "try/one")[:2] == [seen["branch"], seen["first"]]
    assert seen["refs"] == [
        {"main": seen["third"], "try/one": seen["branch"]},
        {"v1": seen["first"]},
        {"refs/pr/1": seen["later pull"], "refs/pr/2": seen["old pull"]},
    ]
    assert seen["branch missing"] == seen["onto a tag"] == ["RevisionNotFoundError", 404]
    assert seen["branch main"] == ["HfHubHTTPError", 403]
    assert seen["branch refs"] == ["BadRequestError", 400]


def test_downloads_of_revisions(pushed):
    *_, seen = pushed
    old, new = '{"a": 1}', "{}"
    assert seen["read"] == {
        "v1": old,
        "main": new,
        seen["first"]: old,
        "try/one": "branch",
        "refs/pr/1": "more",
    }
    assert seen["no file"] == ["RemoteEntryNotFoundError", 404]
    assert seen["no revision"] == ["RevisionNotFoundError", 404]
    assert seen["no repo"] == ["RepositoryNotFoundError", 404]


def look(card):
    import inspect
    from pathlib import Path

    from huggingface_hub import HfApi, ModelCard, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    api, seen = HfApi(), {}

    def found(**kwargs):
        return [model.id for model in api.list_models(**kwargs)]

    seen["found"] = {
        "all": found(sort="lastModified"),
        "limit": found(sort="created_at", limit=1),
        "search": found(search="DELTA"),
        "author": found(author="stranger"),
        "base": found(filter="base_model:openai-community/gpt2"),
        "adapters": found(filter="base_model:adapter:openai-community/gpt2"),
        "merges": found(filter="base_model:merge:openai-community/gpt2"),
        "both": found(filter=["fpt_adapters", "license:mit", "dataset:uoft-cs/cifar10"]),
        "not both": found(filter=["fpt_adapters", "license:apache-2.0"]),
        "task": found(pipeline_tag="image-classification"),
        "own tag": found(filter="extra"),
        "own": found(author="owner", token="hf_owner", search="private"),
        "hidden": found(author="owner", token="hf_stranger", search="private"),
    }
    (model,) = api.list_models(search="delta", expand=["cardData", "sha", "tags"])
    seen["expanded"] = [model.card_data.base_model, model.sha, model.tags, model.private]
    info = api.model_info("owner/delta", files_metadata=True)
    seen["info"] = [info.sha, info.private, info.library_name, info.pipeline_tag, info.card_data.license, info.author]
    seen["score"] = info.card_data.eval_results[0].metric_value
    seen["siblings"] = {s.rfilename: [s.size, s.blob_id, s.lfs and s.lfs.sha256] for s in info.siblings}
    seen["tree"] = [entry.path for entry in api.list_repo_tree("owner/delta")]
    seen["whole tree"] = [entry.path for entry in api.list_repo_tree("owner/delta", recursive=True)]
    seen["folder"] = [entry.path for entry in api.list_repo_tree("owner/delta", "sub")]
    seen["paths"] = [type(e).__name__ for e in api.get_paths_info("owner/delta", ["sub", "README.md", "missing"])]
    for name in ("README.md", "model.safetensors"):
        metadata = get_hf_file_metadata(hf_hub_url("owner/delta", name))
        seen[f"head {name}"] = [metadata.etag, metadata.size, metadata.commit_hash]
    folder = Path(snapshot_download("owner/delta"))
    seen["snapshot"] = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    seen["header"] = api.parse_safetensors_file_metadata("owner/delta", "model.safetensors").metadata

    def refused(call, *args, **kwargs):
        try:
            call(*args, **kwargs)
        except HfHubHTTPError as error:
            return [type(error).__name__, error.response.status_code]

    who = {"nobody": False, "stranger": "hf_stranger", "wrong": "hf_wrong", "owner": "hf_owner"}
    calls = {
        "read": lambda token: api.model_info("owner/private", token=token),
        "download": lambda token: hf_hub_download("owner/private", "config.json", token=token, local_dir=str(token)),
        "gated": lambda token: hf_hub_download("owner/gated", "config.json", token=token, local_dir=f"gated {token}"),
        "upload": lambda token: api.upload_file(
            path_or_fileobj=b"by whom?", path_in_repo="by.bin", repo_id="owner/delta", token=token
        ),
        "tag": lambda token: api.create_tag("owner/delta", tag="mine", token=token),
        "pull": lambda token: api.upload_file(
            path_or_fileobj=b"a better one", path_in_repo="p.bin", repo_id="owner/delta", token=token, create_pr=True
        ),
        "stranger's": lambda token: api.upload_file(
            path_or_fileobj=b"more", path_in_repo="more.bin", repo_id="owner/delta", token=token, revision="refs/pr/1"
        ),
        "owner's": lambda token: api.upload_file(
            path_or_fileobj=b"more", path_in_repo="more.bin", repo_id="owner/delta", token=token, revision="refs/pr/2"
        ),
    }
    seen["refused"] = {
        f"{name} {user}": refused(call, token) for name, call in calls.items() for user, token in who.items()
    }
    if "huggingface.co/api" not in inspect.getsource(ModelCard.validate):  # where old clients ask, whatever is set
        ModelCard(card).validate()
        seen["invalid"] = "nothing"
        try:
            ModelCard(card.replace("base_model_relation: adapter", "base_model_relation: child")).validate()
        except ValueError as error:
            seen["invalid"] = str(error)
    return seen


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    header = json.dumps({"__metadata__": {"of": "a delta"}}).encode()
    files = {
        "README.md": CARD.encode(),
        "model.safetensors": len(header).to_bytes(8, "little") + header,
        "sub/one.txt": b"one",
        "sub/deeper/two.txt": b"two",
    }
    with StandInHub() as hub:
        hub.add_repo("owner/delta", {"old.txt": b"old"})
        commit = hub.add_repo("owner/delta", files)
        hub.add_repo("owner/private", {"config.json": b"{}"}, private=True)
        hub.add_repo("owner/gated", {"config.json": b"{}"}, gated=True)
        hub.add_repo("stranger/bare", {"config.json": b"{}"}, tags=["extra"])
        environment = hub.environment(tmp_path_factory.mktemp("home"))
        yield hub, commit, files, in_fresh_process(look, environment, CARD)


def test_search_finds_by_the_tags_of_cards(looked):
    hub, *_, seen = looked
    delta, everything = ["owner/delta"], ["stranger/bare", "owner/gated", "owner/delta"]
    assert seen["found"] == {
        "all": everything,
        "limit": everything[:1],
        "search": delta,
        "author": ["stranger/bare"],
        "base": delta,
        "adapters": delta,
        "merges": [],
        "both": delta,
        "not both": [],
        "task": delta,
        "own tag": ["stranger/bare"],
        "own": ["owner/private"],
        "hidden": [],
    }
    (first,) = json.loads(ask(hub, "GET", "/api/models?sort=createdAt&limit=1")[2])
    assert first["id"] == everything[0]


def test_what_is_told_of_a_repo(looked):
    _, commit, files, seen = looked
    tags = ["fpt_adapters", "image-classification", "fpt", "safetensors", "model-index", "dataset:uoft-cs/cifar10"]
    tags += ["license:mit", "base_model:openai-community/gpt2", "base_model:adapter:openai-community/gpt2"]
    assert seen["expanded"] == ["openai-community/gpt2", commit, tags, None]
    assert seen["info"] == [commit, False, "fpt_adapters", "image-classification", "mit", "owner"]
    assert seen["score"] == 0
    weights, (size, pointer, digest) = files["model.safetensors"], seen["siblings"]["model.safetensors"]
    assert (size, digest) == (len(weights), hashlib.sha256(weights).hexdigest())
    assert seen["siblings"]["sub/one.txt"] == [3, "43dd47ea691c90a5fa7827892c70241913351963", None]  # as git hashes
    assert pointer != digest


def test_listings_of_files(looked):
    *_, files, seen = looked
    folders = ["sub", "sub/deeper"]
    assert sorted(seen["tree"]) == ["README.md", "model.safetensors", "old.txt", "sub"]
    assert sorted(seen["whole tree"]) == sorted([*files, "old.txt", *folders])
    assert sorted(seen["folder"]) == ["sub/deeper", "sub/one.txt"]
    assert seen["paths"] == ["RepoFolder", "RepoFile"]
    assert seen["snapshot"] == sorted([*files, "old.txt"])


def test_downloads_are_known_by_their_hashes(looked):
    _, commit, files, seen = looked
    card, weights = files["README.md"], files["model.safetensors"]
    git_hash = hashlib.sha1(b"blob %d\0" % len(card) + card).hexdigest()
    assert seen["head README.md"] == [git_hash, len(card), commit]
    assert seen["head model.safetensors"] == [hashlib.sha256(weights).hexdigest(), len(weights), commit]
    assert seen["header"] == {"of": "a delta"}


def test_who_may_do_what(looked):
    hub, *_, seen = looked
    unknown, wrong, forbidden = ["RepositoryNotFoundError", 401], ["HfHubHTTPError", 401], ["HfHubHTTPError", 403]
    missing = ["RepositoryNotFoundError", 404]
    assert seen["refused"] == {
        **{"read nobody": unknown, "read stranger": missing, "read wrong": wrong, "read owner": None},
        **{"download nobody": unknown, "download stranger": missing, "download wrong": wrong, "download owner": None},
        **{"gated nobody": ["GatedRepoError", 401], "gated stranger": ["GatedRepoError", 403]},
        **{"gated wrong": wrong, "gated owner": None},
        **{"upload nobody": wrong, "upload stranger": forbidden, "upload wrong": wrong, "upload owner": None},
        **{"tag nobody": wrong, "tag stranger": forbidden, "tag wrong": wrong, "tag owner": None},
        **{"pull nobody": wrong, "pull stranger": None, "pull wrong": wrong, "pull owner": None},
        **{
            "stranger's nobody": wrong,
            "stranger's stranger": None,
            "stranger's wrong": wrong,
            "stranger's owner": None,
        },
        **{"owner's nobody": wrong, "owner's stranger": forbidden, "owner's wrong": wrong, "owner's owner": None},
    }
    assert hub.files("owner/delta")["by.bin"] == b"by whom?"
    assert hub.files("owner/delta", "refs/pr/1")["p.bin"] == hub.files("owner/delta", "refs/pr/2")["p.bin"]


def test_cards_are_validated(looked):
    hub, *_, seen = looked
    if "invalid" in seen:
        assert seen["invalid"].startswith('"base_model_relation" must be one of')
    for card, status in ((CARD, 200), (CARD.replace("license: mit", "license: my-own"), 400), ("# No metadata", 200)):
        answer = ask(hub, "POST", "/api/validate-yaml", json.dumps({"content": card, "repoType": "model"}))
        assert answer[0] == status
        told = json.loads(answer[2])
        assert [len(told["errors"]), len(told["warnings"])] == [status == 400, card.startswith("#")]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("license: mit", "license: MIT", '"license" must be'),
        ("license: mit", "license: other", '"license_name" is required'),
        ("base_model: openai-community/gpt2", "base_model: 7", '"base_model" must be'),
        ("base_model: openai-community/gpt2", "base_model: [a/b, /home/me/gpt2]", '"base_model" must be'),
        ("relation: adapter", "relation: child", '"base_model_relation" must be'),
        ("pipeline_tag: image", "pipeline_tag: smell", '"pipeline_tag" must be'),
        ("[uoft-cs/cifar10]", "[the CIFAR-10 pictures]", '"datasets" must be'),
        ("tags: [fpt, image-classification]", "tags: fpt", '"tags" must be'),
        ("tags: [fpt, image-classification]", "tags: [fpt, 1]", '"tags" must be'),
        ("- name: a delta\n ", "-", '"model-index[0].name" is required'),
        ("task: {type: image-classification}", "task: {}", '"model-index[0].results[0].task.type" is required'),
        ("name: CIFAR-10", "title: CIFAR-10", '"model-index[0].results[0].dataset.name" is required'),
        ("name: CIFAR-10", "name: 10", '"model-index[0].results[0].dataset.name" is not'),
        (", value: 0}", "}", '"model-index[0].results[0].metrics[0].value" is required'),
        ("\n    - {type: accuracy, value: 0}", " accuracy", '"model-index[0].results[0].metrics" is not'),
        ("tags: [fpt", "tags: [[", "YAML metadata is not valid"),
    ],
)
def test_a_card_that_the_hub_refuses(old, new, message):
    assert check_card(CARD) == ([], [])
    assert old in CARD
    errors, _ = check_card(CARD.replace(old, new))
    assert [error for error in errors if error.startswith(message)] == errors != []


def test_a_card_without_metadata_is_warned_of():
    assert check_card("# A delta") == ([], ["empty or missing yaml metadata in repo card"])
    assert check_card(CARD.replace("license: mit", "license: other\nlicense_name: my-own")) == ([], [])


def fetch():
    import hashlib
    from pathlib import Path

    from huggingface_hub import hf_hub_download

    def attempt(name, errors):
        try:
            data = Path(hf_hub_download("owner/faulty", name)).read_bytes()
            return [hashlib.sha256(data).hexdigest(), errors]
        except Exception as error:
            return attempt(name, [*errors, type(error).__name__]) if len(errors) < 3 else [None, errors]

    return {name: attempt(f"{name}.bin", []) for name in ("cut", "status", "slow", "corrupt", "right")}


def test_faults_of_downloads(tmp_path):
    data = {name: name.encode() * 50_000 for name in ("cut", "status", "slow", "corrupt", "right")}
    with StandInHub() as hub:
        hub.add_repo("owner/faulty", {f"{name}.bin": content for name, content in data.items()})
        hub.fault("cut.bin", "cut", after=1000)
        hub.fault("status.bin", "status", times=2, code=500)
        hub.fault("slow.bin", "slow", seconds=1.5)
        hub.fault("corrupt.bin", "corrupt", times=None)
        start = time.monotonic()
        seen = in_fresh_process(fetch, hub.environment(tmp_path))
        assert time.monotonic() - start > 1.5
        log = [(r.path.rpartition("/")[2], r.status, r.bytes_sent) for r in hub.requests if r.method == "GET"]
        pulled = hub.pulled_bytes("owner/faulty")
        hub.clear_log()
        assert (hub.requests, hub.pulled_bytes("owner/faulty")) == ([], 0)
    sizes = {name: len(content) for name, content in data.items()}
    assert log == [
        ("cut.bin", 200, 1000),
        ("cut.bin", 200, sizes["cut"]),
        ("status.bin", 500, log[2][2]),
        ("status.bin", 500, log[3][2]),
        ("status.bin", 200, sizes["status"]),
        ("slow.bin", 200, sizes["slow"]),
        ("corrupt.bin", 200, sizes["corrupt"]),
        ("right.bin", 200, sizes["right"]),
    ]
    assert pulled == 1000 + sum(sizes.values())
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in data.items()}
    right = [name for name in data if seen[name][0] == digests[name]]
    assert right == ["cut", "status", "slow", "right"]
    assert seen["corrupt"][0] is not None  # the client does not notice
    assert seen["status"][1] == ["HfHubHTTPError"] * 2


def test_faults_can_be_undone_and_strike_what_they_name(hub):
    hub.add_repo("owner/odd", {"a.bin": b"0123456789" * 10, "b.bin": b"b"})
    path = "/owner/odd/resolve/main/a.bin"
    right = ask(hub, "GET", path)[2]
    with pytest.raises(ValueError, match="'lightning' is not one of"):
        hub.fault("a.bin", "lightning")
    hub.fault("a.bin", "status", times=None, methods=("HEAD",), code=429)
    assert ask(hub, "HEAD", path)[0] == ask(hub, "HEAD", path)[0] == 429
    assert ask(hub, "GET", path)[2] == right
    hub.clear_faults()
    assert ask(hub, "HEAD", path)[0] == 200
    hub.fault("a.bin", "corrupt")
    status, headers, body = ask(hub, "GET", path)
    assert (status, headers["ETag"].strip('"'), len(body)) == (200, hashlib.sha256(right).hexdigest(), len(right))
    assert body != right
    assert ask(hub, "GET", path)[2] == right
    fault = hub.fault(("a.bin", "c.bin"), "corrupt", None, every=3, at=0, count=1, mask=1)
    bodies = [ask(hub, "GET", path)[2] for _ in range(7)]
    wrong = bytes([right[0] ^ 1]) + right[1:]
    assert bodies == [right, right, wrong] * 2 + [right] and (fault.seen, fault.struck) == (7, 2)
    fault.times = 0
    assert ask(hub, "GET", path)[2] == right and fault.seen == 7
    hub.fault("b.bin", "cut")
    assert ask(hub, "GET", path)[2] == right
    with pytest.raises(http.client.IncompleteRead):
        ask(hub, "GET", "/owner/odd/resolve/main/b.bin")


@pytest.mark.parametrize(
    ("wanted", "status", "body", "content_range"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
    ],
)
def test_ranges(hub, wanted, status, body, content_range):
    hub.add_repo("owner/ranges", {"digits.bin": b"0123456789"})
    answer, headers, part = ask(hub, "GET", "/owner/ranges/resolve/main/digits.bin", Range=wanted)
    assert (answer, part, headers["Content-Range"]) == (status, body, content_range)
    assert headers["Content-Length"] == str(len(body))
    assert (headers["X-Linked-Size"], headers["X-Linked-Etag"]) == ("10", headers["ETag"])


def test_large_content_is_checked_and_must_be_announced(hub):
    hub.add_repo("owner/large", {"config.json": b"{}"})
    oid = hashlib.sha256(b"content").hexdigest()

    def post(path, *values, token="hf_owner"):
        lines = "\n".join(json.dumps(value) for value in values)
        status, _, body = ask(hub, "POST", path, lines.encode(), token=token)
        return status, json.loads(body or b"{}")

    def commit(key="lfsFile", token="hf_owner", **value):
        line = {"key": key, "value": {"path": "a.bin", "algo": "sha256", "oid": oid, "size": 7, **value}}
        header = {"key": "header", "value": {"summary": "Add"}}
        status, answer = post("/api/models/owner/large/commit/main", header, line, token=token)
        return status, answer.get("error")

    batch = "/owner/large.git/info/lfs/objects/batch"
    wanted = {"operation": "upload", "ref": {"name": "main"}, "objects": [{"oid": oid, "size": 7}]}
    assert post(batch, wanted, token="hf_stranger")[0] == 403
    assert commit() == (400, "a.bin points to content that was not uploaded")
    actions = post(batch, wanted)[1]["objects"][0]["actions"]
    address = urlsplit(actions["upload"]["href"]).path
    assert post(urlsplit(actions["verify"]["href"]).path, {"oid": oid, "size": 7})[0] == 404
    assert ask(hub, "PUT", address, b"another")[0] == 400
    assert ask(hub, "PUT", "/lfs/0123", b"content")[0] == 403
    assert ask(hub, "PUT", address, iter([b"con", b"tent"]))[0] == 200  # in chunks
    assert post(urlsplit(actions["verify"]["href"]).path, {"oid": oid, "size": 7})[0] == 200
    assert "actions" not in post(batch, wanted)[1]["objects"][0]
    assert commit(token="hf_stranger")[0] == 403
    assert commit() == (200, None)
    assert hub.files("owner/large") == {"config.json": b"{}", "a.bin": b"content"}

    large = base64.b64encode(bytes(LFS_SIZE + 1)).decode()
    assert commit("file", content=large) == (400, "a.bin is too large for git, and belongs into Git-LFS")
    card = base64.b64encode(CARD.replace("license: mit", "license: my-own").encode()).decode()
    status, error = commit("file", path="README.md", content=card)
    assert (status, error[:29]) == (400, "Invalid metadata in README.md")
    assert commit("renamedFile") == (400, "Unknown operation: renamedFile")
    assert len(hub.commits("owner/large")) == 2

    files = [{"path": "a.bin", "size": 7, "sample": ""}, {"path": "big.txt", "size": LFS_SIZE + 1, "sample": ""}]
    files.append({"path": "small.txt", "size": 7, "sample": ""})
    answer = post("/api/models/owner/large/preupload/main", {"files": files})[1]["files"]
    assert [file["uploadMode"] for file in answer] == ["lfs", "lfs", "regular"]
    assert [file.get("oid") for file in answer] == [oid, None, None]


def test_what_is_not_served_is_refused(hub):
    assert ask(hub, "GET", "/api/spaces")[0] == 404
    assert ask(hub, "POST", "/api/repos/create", b"no JSON", token="hf_owner")[0] == 400
    status, headers, _ = ask(hub, "GET", "http://elsewhere.example/api/models")
    assert (status, headers["X-Error-Message"]) == (403, "http://elsewhere.example/api/models is not served here")
    assert hub.requests[-1].path == "http://elsewhere.example/api/models"


def test_the_environment_knows_no_other_hub(hub, monkeypatch, tmp_path):
    inherited = {
        "HF_TOKEN": "hf_mine",
        "HF_HUB_CACHE": "/mine",
        "TRANSFORMERS_OFFLINE": "1",
        "HTTPS_PROXY": "http://mine",
    }
    for name, value in {**inherited, "KEPT": "1"}.items():
        monkeypatch.setenv(name, value)
    environment = hub.environment(tmp_path)
    assert not inherited.keys() & environment.keys()
    wanted = {"KEPT": "1", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "https_proxy": hub.url}
    assert wanted.items() <= environment.items()
    environment = hub.environment(tmp_path, token="hf_owner", HF_HUB_OFFLINE=1)
    assert (environment["HF_TOKEN"], environment["HF_HUB_OFFLINE"]) == ("hf_owner", "1")


def test_many_at_a_time(hub):
    hub.add_repo("owner/many", {"config.json": b"{}"})
    header = {"key": "header", "value": {"summary": "Add"}}

    def add(number):
        value = {"path": f"{number}.txt", "content": base64.b64encode(b"text").decode(), "encoding": "base64"}
        body = "\n".join(json.dumps(line) for line in (header, {"key": "file", "value": value})).encode()
        return ask(hub, "POST", "/api/models/owner/many/commit/main", body, token="hf_owner")[0]

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(add, range(40))) == {200}
    assert len(hub.commits("owner/many")) == len(hub.files("owner/many")) == 41
    assert [r.status for r in hub.requests if r.repo == ("model", "owner/many")] == [200] * 40


def test_nothing_is_answered_after_the_end():
    with StandInHub() as hub:
        hub.add_repo("owner/model", {"config.json": b"{}", "slow.bin": b"slow"})
        kept = http.client.HTTPConnection(urlsplit(hub.url).netloc, timeout=30)
        kept.request("GET", "/owner/model/resolve/main/config.json")
        assert kept.getresponse().read() == b"{}"
        hub.fault("slow.bin", "slow", seconds=60)
        kept.request("GET", "/owner/model/resolve/main/slow.bin")
        answer = kept.getresponse()
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    kept.close()
    with pytest.raises(ConnectionRefusedError):
        ask(hub, "GET", "/api/models")

    with StandInHub() as hub:
        kept = http.client.HTTPConnection(urlsplit(hub.url).netloc, timeout=30)
        kept.request("GET", "/api/models")
        assert kept.getresponse().read() == b"[]"
    kept.request("GET", "/api/models")
    with pytest.raises(http.client.RemoteDisconnected):
        kept.getresponse()
    kept.close()


def load():
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained("owner/tiny")
    private = transformers.AutoConfig.from_pretrained("owner/hidden", token="hf_owner", revision="main")
    rows = datasets.load_dataset("owner/rows")
    table = datasets.load_dataset("owner/table", split="train", token="hf_owner")
    files = {"train": "more/*.parquet"}
    more = datasets.load_dataset("owner/rows", data_files=files, split="train", streaming=True)
    datasets.Dataset.from_dict({"x": [7]}).push_to_hub("owner/made", token="hf_owner")
    made = datasets.load_dataset("owner/made", split="train")
    return {
        "configs": [config.n_embd, private.n_embd],
        "rows": {split: rows[split]["x"][:] for split in rows},
        "table": table[:],
        "more": [row["x"] for row in more],
        "made": made[:],
    }


def test_transformers_and_datasets(tmp_path):
    def parquet(values):
        with io.BytesIO() as file:
            pyarrow.parquet.write_table(pyarrow.table({"x": values}), file)
            return file.getvalue()

    folder = tmp_path / "tiny"
    GPT2Config(n_embd=12, n_layer=1, n_head=1).save_pretrained(folder)
    rows = {"data/train-00000-of-00001.parquet": parquet([1, 2]), "data/test-00000-of-00001.parquet": parquet([3])}
    with StandInHub() as hub:
        hub.add_repo("owner/tiny", folder)
        hub.add_repo("owner/hidden", folder, private=True)
        hub.add_repo("owner/rows", {**rows, "more/part.parquet": parquet([5])}, repo_type="dataset")
        hub.add_repo("owner/table", {"train.csv": b"a,b\n1,x\n2,y\n"}, repo_type="dataset", private=True)
        (tmp_path / "home").mkdir()
        seen = in_fresh_process(load, hub.environment(tmp_path / "home"))
        assert hub.pulled_bytes("owner/rows", repo_type="dataset") > 0
        assert [name for name in hub.files("owner/made", repo_type="dataset") if name.endswith(".parquet")]
        elsewhere = [request.path for request in hub.requests if not request.path.startswith("/")]
    assert seen == {
        "configs": [12, 12],
        "rows": {"train": [1, 2], "test": [3]},
        "table": {"a": [1, 2], "b": ["x", "y"]},
        "more": [5],
        "made": {"x": [7]},
    }
    assert [path for path in elsewhere if "://datasets-server." not in path] == []  # which knows of no such dataset
