"""The stand-in of the Hub (`hub_server.py`), used by the Hub's own client in a fresh process, and by bare requests."""

import base64
import hashlib
import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from hub_server import LFS_SIZE, StandInHub, check_card

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
SETUP = """
import sys
from pathlib import Path
from huggingface_hub import *
from huggingface_hub.errors import HfHubHTTPError

api = HfApi()

def add(name):
    return CommitOperationAdd(name, b"more")

def commit(repo_id, *operations, **kwargs):
    return api.create_commit(repo_id, list(operations), commit_message="Change", **kwargs)

def upload(repo_id, name, data, **kwargs):
    return api.upload_file(repo_id=repo_id, path_in_repo=name, path_or_fileobj=data, **kwargs).oid

def read(repo_id, name, **kwargs):
    return Path(hf_hub_download(repo_id, name, **kwargs)).read_text()
"""
WATCH = """
sys.strays = []  # whom this process tries to reach

def watch(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] != "127.0.0.1":
        sys.strays.append(arguments[0])
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] != "127.0.0.1":
        sys.strays.append(arguments[1])

sys.addaudithook(watch)
"""
REFUSED = """
try:
    {code}
    result = None
except HfHubHTTPError as error:
    result = [type(error).__name__, error.response.status_code]
"""


@pytest.fixture(scope="module")
def hub():
    with StandInHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, make_client):
    """A process of the owner's, which talks to this hub only."""
    client = make_client("owner", token="hf_owner", modules=("huggingface_hub",), setup=SETUP)
    client.run(WATCH)
    yield client
    assert client.run("result = sys.strays") == []


@pytest.fixture(scope="module")
def told(client):
    """What an expression is in that process."""
    return lambda expression, **values: client.run(f"result = {expression}", **values)


@pytest.fixture(scope="module")
def refused(client):
    """Class and status of the error of an expression in that process, or None."""
    return lambda expression, **values: client.run(REFUSED.format(code=expression), **values)


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


# Repos and commits


def test_repos_are_created_where_their_maker_may(hub, told, refused):
    assert told("api.whoami()['name']") == "owner"
    made = [told("api.create_repo(name).repo_id", name=name) for name in ("mine", "owner/also", "org/shared")]
    assert made == ["owner/mine", "owner/also", "org/shared"]
    assert told("api.create_repo('owner/mine', exist_ok=True).repo_id") == "owner/mine"
    assert refused("api.create_repo('owner/mine')") == ["HfHubHTTPError", 409]
    assert refused("api.create_repo('stranger/model')") == ["HfHubHTTPError", 403]
    assert told("api.create_repo('owner/secret', private=True).repo_id") == "owner/secret"
    assert told("[api.model_info(name).private for name in ('owner/secret', 'owner/also')]") == [True, False]
    assert list(hub.files("owner/also")) == [".gitattributes"]


def test_uploads_arrive_as_they_were(hub, told, tmp_path):
    contents = {"README.md": b"# Mine", "config.json": b'{"a": 1}', "empty.bin": b""}
    contents |= {"model.safetensors": bytes(range(256)) * 1000, "sub/picture.png": b"\x89PNG"}
    (tmp_path / "sub").mkdir()
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    first = hub.add_repo("owner/pushed", {"old.txt": b"old"})
    hub.clear_log()
    uploaded = [told("api.upload_folder(repo_id='owner/pushed', folder_path=path).oid", path=str(tmp_path))]
    uploaded += [told("api.upload_folder(repo_id='owner/pushed', folder_path=path).oid", path=str(tmp_path))]
    assert uploaded[0] == uploaded[1] != first  # nothing was new
    assert hub.files("owner/pushed") == contents | {"old.txt": b"old"}
    stored = [request.body for request in hub.requests if request.method == "PUT"]
    assert sorted(stored, key=len) == [contents["sub/picture.png"], contents["model.safetensors"]]  # never again


def test_commits_are_whole_and_in_order(hub, client, told, refused):
    first = hub.add_repo("owner/ordered", {"a.txt": b"a", "b.txt": b"b"})
    second = told("upload('owner/ordered', 'c.txt', b'c')")
    for arguments, error in (
        ("add('d.txt'), parent_commit=first", ["HfHubHTTPError", 412]),
        ("add('d.txt'), CommitOperationDelete('a.txt')", ["BadRequestError", 400]),
        ("add('d.txt'), revision='missing'", ["RevisionNotFoundError", 404]),
    ):
        assert refused(f"commit('owner/ordered', {arguments})", first=first) == error
    card = CARD.replace("license: mit", "license: my-own").encode()
    error = client.fails("upload('owner/ordered', 'README.md', card)", card=card)
    assert '"license" must be one of the known licenses' in str(error)
    third = told("commit('owner/ordered', add('d.txt'), parent_commit=second).oid", second=second)
    assert hub.commits("owner/ordered") == [third, second, first]
    assert hub.files("owner/ordered") == {"a.txt": b"a", "b.txt": b"b", "c.txt": b"c", "d.txt": b"more"}


def test_pull_requests_leave_the_branch_as_it_is(hub, told):
    first = hub.add_repo("owner/asked", {"a.txt": b"a"})
    second = hub.add_repo("owner/asked", {"b.txt": b"b"})
    code = (
        "(lambda info: [info.pr_revision, info.pr_url, info.oid])(commit('owner/asked', add('p.txt'), create_pr=True))"
    )
    revision, url, oid = told(code)
    assert (revision, url) == ("refs/pr/1", f"{hub.url}/owner/asked/discussions/1")
    later = told("upload('owner/asked', 'p.txt', b'again', revision='refs/pr/1')")
    assert hub.commits("owner/asked") == [second, first]
    assert hub.commits("owner/asked", "refs/pr/1") == [later, oid, second, first]
    assert hub.files("owner/asked", oid)["p.txt"] == b"more"


def test_branches_tags_and_downloads_of_revisions(hub, told, refused):
    first = hub.add_repo("owner/parted", {"a.txt": b"old"})
    second = hub.add_repo("owner/parted", {"a.txt": b"new"})
    for made in ("branch", "tag"):
        name = "try/one" if made == "branch" else "v1"
        code = f"api.create_{made}('owner/parted', {made}={name!r}, revision=first)"
        assert refused(code, first=first) is None
        assert refused(code, first=first) == ["HfHubHTTPError", 409]
    assert refused("api.create_branch('owner/parted', branch='try/one', exist_ok=True)") is None
    assert refused("api.create_branch('owner/parted', branch='refs/pr/9')") == ["BadRequestError", 400]
    third = told("upload('owner/parted', 'a.txt', b'tried', revision='try/one')")
    assert hub.commits("owner/parted", "try/one") == [third, first]
    assert refused("upload('owner/parted', 'a.txt', b'x', revision='v1')") == ["RevisionNotFoundError", 404]
    texts = {"v1": "old", "main": "new", first: "old", second: "new", "try/one": "tried"}
    for revision, text in texts.items():
        assert told("read('owner/parted', 'a.txt', revision=revision)", revision=revision) == text
    assert refused("read('owner/parted', 'missing.txt')") == ["RemoteEntryNotFoundError", 404]
    assert refused("read('owner/parted', 'a.txt', revision='gone')") == ["RevisionNotFoundError", 404]
    assert refused("api.model_info('owner/missing')") == ["RepositoryNotFoundError", 404]


# What is told


@pytest.fixture(scope="module")
def delta(hub):
    """The files and the commit of a repo whose card is full."""
    files = {
        "README.md": CARD.encode(),
        "model.safetensors": b"weights",
        "sub/one.txt": b"one",
        "sub/in/two.txt": b"2",
    }
    hub.add_repo("found/delta", {})
    hub.add_repo("found/private", {"config.json": b"{}"}, private=True)
    hub.add_repo("stranger/bare", {"config.json": b"{}"}, tags=["extra"])
    return files, hub.add_repo("found/delta", files)


@pytest.mark.parametrize(
    "wanted, found",
    [
        ({"author": "stranger"}, ["stranger/bare"]),
        ({"filter": "base_model:openai-community/gpt2"}, ["found/delta"]),
        ({"filter": "base_model:adapter:openai-community/gpt2"}, ["found/delta"]),
        ({"filter": "base_model:merge:openai-community/gpt2"}, []),
        ({"filter": ["fpt_adapters", "license:mit", "dataset:uoft-cs/cifar10"]}, ["found/delta"]),
        ({"filter": ["fpt_adapters", "license:apache-2.0"]}, []),
        ({"filter": "extra"}, ["stranger/bare"]),
        ({"author": "found"}, ["found/delta"]),
        ({"author": "found", "token": "hf_found"}, ["found/delta", "found/private"]),
    ],
    ids=str,
)
def test_search_finds_by_the_tags_of_cards(hub, told, delta, wanted, found):
    hub.tokens["hf_found"] = "found"
    assert told("[model.id for model in api.list_models(**wanted)]", wanted=wanted) == found


def test_what_is_told_of_a_repo(told, delta):
    files, commit = delta
    tags = ["fpt_adapters", "image-classification", "fpt", "safetensors", "model-index", "dataset:uoft-cs/cifar10"]
    tags += ["license:mit", "base_model:openai-community/gpt2", "base_model:adapter:openai-community/gpt2"]
    code = (
        "[[m.card_data.base_model, m.sha, m.tags, m.private] for m in api.list_models(author='found', expand=wanted)]"
    )
    assert told(code, wanted=["cardData", "sha", "tags"]) == [["openai-community/gpt2", commit, tags, None]]
    code = "(lambda m: [m.sha, m.private, m.library_name, m.pipeline_tag, m.card_data.license, m.author])"
    wanted = [commit, False, "fpt_adapters", "image-classification", "mit", "found"]
    assert told(f"{code}(api.model_info('found/delta'))") == wanted
    assert told("api.model_info('found/delta').card_data.eval_results[0].metric_value") == 0
    assert told("[entry.path for entry in api.list_repo_tree('found/delta')]") == [
        "README.md",
        "model.safetensors",
        "sub",
    ]
    tree = told("[entry.path for entry in api.list_repo_tree('found/delta', recursive=True)]")
    assert sorted(tree) == sorted([*files, "sub", "sub/in"])
    code = "sorted(p.name for p in Path(snapshot_download('found/delta')).rglob('*') if p.is_file())"
    assert told(code) == ["README.md", "model.safetensors", "one.txt", "two.txt"]


@pytest.mark.parametrize("name", ["README.md", "model.safetensors"])
def test_downloads_are_known_by_their_hashes(told, delta, name):
    data, commit = delta[0][name], delta[1]
    git_hash = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    etag = git_hash if name == "README.md" else hashlib.sha256(data).hexdigest()
    code = "(lambda m: [m.etag, m.size, m.commit_hash])(get_hf_file_metadata(hf_hub_url('found/delta', name)))"
    assert told(code, name=name) == [etag, len(data), commit]


# Who may do what

UNKNOWN, WRONG, FORBIDDEN = ["RepositoryNotFoundError", 401], ["HfHubHTTPError", 401], ["HfHubHTTPError", 403]
USERS = ("nobody", "stranger", "wrong", "owner")
RIGHTS = {  # by what is done: its outcome for each of USERS
    "api.model_info('owner/closed', token=token)": (UNKNOWN, ["RepositoryNotFoundError", 404], WRONG, None),
    "read('owner/closed', 'a', token=token, local_dir=str(token))": (
        UNKNOWN,
        ["RepositoryNotFoundError", 404],
        WRONG,
        None,
    ),
    "read('owner/gated', 'a', token=token, local_dir=str(token))": (
        *(["GatedRepoError", 401], ["GatedRepoError", 403], WRONG, None),
    ),
    "upload('owner/open', 'by.bin', b'by whom?', token=token)": (WRONG, FORBIDDEN, WRONG, None),
    "api.create_tag('owner/open', tag='mine', token=token)": (WRONG, FORBIDDEN, WRONG, None),
    "upload('owner/open', 'p.bin', b'better', token=token, create_pr=True)": (WRONG, None, WRONG, None),
    "upload('owner/open', 'p.bin', b'1', token=token, revision='refs/pr/1')": (WRONG, None, WRONG, None),
    "upload('owner/open', 'p.bin', b'2', token=token, revision='refs/pr/2')": (WRONG, FORBIDDEN, WRONG, None),
}


@pytest.fixture(scope="module")
def guarded(hub):
    hub.add_repo("owner/open", {"a": b"a"})
    hub.add_repo("owner/closed", {"a": b"a"}, private=True)
    hub.add_repo("owner/gated", {"a": b"a"}, gated=True)


@pytest.mark.parametrize("code", RIGHTS)
def test_who_may_do_what(guarded, refused, code):
    outcomes = [refused(code, token=False if user == "nobody" else f"hf_{user}") for user in USERS]
    assert outcomes == list(RIGHTS[code])


# Cards


@pytest.mark.parametrize(
    "old, new, message",
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
        ("---\n# A delta", "---", None),
        ("license: mit", "license: other\nlicense_name: my-own", None),
    ],
)
def test_a_cards_metadata_is_checked(hub, old, new, message):
    assert old in CARD
    card = CARD.replace(old, new)
    errors, warnings = check_card(card)
    assert [error for error in errors if error.startswith(message or "")] == errors
    assert bool(errors) == (message is not None) and warnings == []
    status, _, body = ask(hub, "POST", "/api/validate-yaml", json.dumps({"content": card, "repoType": "model"}))
    told = json.loads(body)
    assert (status, len(told["errors"]), told["warnings"]) == (400 if errors else 200, len(errors), [])


def test_a_card_without_metadata_is_warned_of():
    assert check_card("# A delta") == ([], ["empty or missing yaml metadata in repo card"])


# Faults


PARTS = {name: name.encode() * 50_000 for name in ("cut", "status", "slow", "corrupt", "right")}
FETCHING = """
result = {}
for name in names:
    errors = []
    while name not in result and len(errors) < 4:
        try:
            result[name] = [Path(hf_hub_download("owner/faulty", name)).stat().st_size, errors]
        except Exception as error:
            errors.append(type(error).__name__)
"""


def test_faults_of_downloads(hub, client, tmp_path):
    hub.add_repo("owner/faulty", PARTS)
    hub.fault("/cut", "cut", after=1000)
    hub.fault("/status", "status", times=2, code=500)
    slow = hub.fault("/slow", "slow", seconds=0.5)
    hub.fault("/corrupt", "corrupt", times=None)
    hub.clear_log()
    seen = client.run(FETCHING, names=list(PARTS))
    hub.clear_faults()
    sizes = {name: len(data) for name, data in PARTS.items()}
    assert {name: size for name, (size, _) in seen.items()} == sizes  # the client notices nothing of what is corrupt
    assert seen["status"][1] == ["HfHubHTTPError"] * 2 and slow.struck == 1
    log = [(r.path.rpartition("/")[2], r.status, r.bytes_sent) for r in hub.requests if r.method == "GET"]
    failed = ("status", 500, len(b'{"error": "A fault that was asked for"}'))
    right = [(name, 200, sizes[name]) for name in ("slow", "corrupt", "right")]
    cut, whole = ("cut", 200, 1000), ("cut", 200, sizes["cut"])
    assert log == [cut, whole, failed, failed, ("status", 200, sizes["status"]), *right]
    assert hub.pulled_bytes("owner/faulty") == 1000 + sum(sizes.values())
    hub.clear_log()
    assert (hub.requests, hub.pulled_bytes("owner/faulty")) == ([], 0)


def test_faults_can_be_undone_and_strike_what_they_name(hub):
    hub.add_repo("owner/odd", {"a.bin": b"0123456789" * 10, "b.bin": b"b"})

    def get(name="a.bin", method="GET"):
        return ask(hub, method, f"/owner/odd/resolve/main/{name}")

    right = get()[2]
    with pytest.raises(ValueError, match="'lightning' is not one of"):
        hub.fault("a.bin", "lightning")
    hub.fault("a.bin", "status", times=None, methods=("HEAD",), code=429)
    assert get(method="HEAD")[0] == get(method="HEAD")[0] == 429
    assert get()[2] == right
    hub.clear_faults()
    assert get(method="HEAD")[0] == 200
    hub.fault("a.bin", "corrupt")
    status, headers, body = get()
    assert (status, headers["ETag"].strip('"'), len(body)) == (200, hashlib.sha256(right).hexdigest(), len(right))
    assert body != right == get()[2]
    fault = hub.fault(("a.bin", "c.bin"), "corrupt", None, every=3, at=0, count=1, mask=1)
    bodies = [get()[2] for _ in range(7)]
    wrong = bytes([right[0] ^ 1]) + right[1:]
    assert bodies == [right, right, wrong] * 2 + [right] and (fault.seen, fault.struck) == (7, 2)
    fault.times = 0
    assert get()[2] == right and fault.seen == 7
    hub.fault("b.bin", "cut")
    assert get()[2] == right
    with pytest.raises(http.client.IncompleteRead):
        get("b.bin")


# Bare requests


@pytest.mark.parametrize(
    "wanted, status, body, content_range",
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


def post_commit(hub, repo_id, key, token="hf_owner", **value):
    """Status and error of a bare commit of one line."""
    lines = [{"key": "header", "value": {"summary": "Add"}}, {"key": key, "value": {"path": "a.bin"} | value}]
    body = "\n".join(map(json.dumps, lines)).encode()
    status, _, answer = ask(hub, "POST", f"/api/models/{repo_id}/commit/main", body, token)
    return status, json.loads(answer).get("error")


def test_large_content_is_checked_and_must_be_announced(hub):
    hub.add_repo("owner/large", {"config.json": b"{}"})
    stored = {"oid": hashlib.sha256(b"content").hexdigest(), "size": 7}

    def post(path, value, token="hf_owner"):
        status, _, body = ask(hub, "POST", path, json.dumps(value).encode(), token)
        return status, json.loads(body or b"{}")

    batch = "/owner/large.git/info/lfs/objects/batch"
    wanted = {"operation": "upload", "ref": {"name": "main"}, "objects": [stored]}
    assert post(batch, wanted, token="hf_stranger")[0] == 403
    missing = (400, "a.bin points to content that was not uploaded")
    assert post_commit(hub, "owner/large", "lfsFile", **stored) == missing
    actions = post(batch, wanted)[1]["objects"][0]["actions"]
    upload, verify = (urlsplit(actions[name]["href"]).path for name in ("upload", "verify"))
    assert post(verify, stored)[0] == 404
    assert ask(hub, "PUT", upload, b"another")[0] == 400
    assert ask(hub, "PUT", "/lfs/0123", b"content")[0] == 403
    assert ask(hub, "PUT", upload, b"content")[0] == post(verify, stored)[0] == 200
    assert "actions" not in post(batch, wanted)[1]["objects"][0]
    assert post_commit(hub, "owner/large", "lfsFile", "hf_stranger", **stored)[0] == 403
    assert post_commit(hub, "owner/large", "lfsFile", **stored) == (200, None)
    assert hub.files("owner/large") == {"config.json": b"{}", "a.bin": b"content"}
    files = [("a.bin", 7), ("big.txt", LFS_SIZE + 1), ("small.txt", 7)]
    files = [{"path": path, "size": size, "sample": ""} for path, size in files]
    answer = post("/api/models/owner/large/preupload/main", {"files": files})[1]["files"]
    wanted = [("lfs", stored["oid"]), ("lfs", None), ("regular", None)]
    assert [(file["uploadMode"], file.get("oid")) for file in answer] == wanted


def test_commits_that_are_refused(hub):
    commit = hub.add_repo("owner/refusing", {"config.json": b"{}"})
    for key, path, data, error in (
        ("file", "a.bin", bytes(LFS_SIZE + 1), "a.bin is too large for git, and belongs into Git-LFS"),
        ("file", "README.md", b"---\nlicense: my-own\n---\n", "Invalid metadata in README.md"),
        ("deletedFile", "a.bin", b"", "Unknown operation: deletedFile"),
    ):
        content = base64.b64encode(data).decode()
        status, told = post_commit(hub, "owner/refusing", key, path=path, content=content)
        assert status == 400 and told.startswith(error)
    assert hub.commits("owner/refusing") == [commit]


def test_what_is_not_served_is_refused(hub):
    assert ask(hub, "GET", "/api/spaces")[0] == 404
    assert ask(hub, "POST", "/api/repos/create", b"no JSON", token="hf_owner")[0] == 400
    status, headers, _ = ask(hub, "GET", "http://elsewhere.example/api/models")
    assert (status, headers["X-Error-Message"]) == (403, "http://elsewhere.example/api/models is not served here")
    assert hub.requests[-1].path == "http://elsewhere.example/api/models"


def test_the_environment_knows_no_other_hub(hub, monkeypatch, tmp_path):
    inherited = {"HF_TOKEN": "hf_mine", "HF_HUB_CACHE": "/mine", "TRANSFORMERS_OFFLINE": "1", "HTTPS_PROXY": "mine"}
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
    text = {"content": base64.b64encode(b"text").decode()}
    with ThreadPoolExecutor(8) as pool:
        added = pool.map(
            lambda number: post_commit(hub, "owner/many", "file", path=f"{number}.txt", **text), range(40)
        )
    assert set(added) == {(200, None)}
    assert len(hub.commits("owner/many")) == len(hub.files("owner/many")) == 41
    assert [r.status for r in hub.requests if r.repo == ("model", "owner/many")] == [200] * 40


def test_nothing_is_answered_after_the_end():
    with StandInHub() as hub:
        hub.add_repo("owner/model", {"config.json": b"{}", "slow.bin": b"slow"})
        kept, idle = (http.client.HTTPConnection(urlsplit(hub.url).netloc, timeout=30) for _ in range(2))
        for connection in (kept, idle):
            connection.request("GET", "/owner/model/resolve/main/config.json")
            assert connection.getresponse().read() == b"{}"
        hub.fault("slow.bin", "slow", seconds=60)
        kept.request("GET", "/owner/model/resolve/main/slow.bin")
        answer = kept.getresponse()
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    idle.request("GET", "/api/models")
    with pytest.raises(http.client.RemoteDisconnected):
        idle.getresponse()
    with pytest.raises(ConnectionRefusedError):
        ask(hub, "GET", "/api/models")
    kept.close()
    idle.close()
