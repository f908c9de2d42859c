"""The stand-in of the Hub (`hub_server.py`): what other tests would pass in vain without.

That it serves whoever may be served, as the Hub does, is shown wherever a real client pushes and pulls.
"""

import base64
import hashlib
import http.client
import json
import time
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
from pathlib import Path
digests, errors = {}, {name: [] for name in names}
for name in names:
    while name not in digests and len(errors[name]) < 4:
        try:
            data = Path(huggingface_hub.hf_hub_download("owner/faulty", name)).read_bytes()
            digests[name] = hashlib.sha256(data).hexdigest()
        except Exception as error:
            errors[name].append(type(error).__name__)
result = [digests, errors]
"""


def test_faults_of_downloads(hub, make_client):
    hub.add_repo("owner/faulty", PARTS)
    hub.fault("/cut", "cut", after=1000)
    hub.fault("/status", "status", times=2, code=500)
    hub.fault("/slow", "slow", seconds=1)
    hub.fault("/corrupt", "corrupt", times=None)
    client = make_client("fetching", modules=("hashlib", "huggingface_hub", "time"))
    start = client.run("result = time.monotonic()")
    digests, errors = client.run(FETCHING, names=list(PARTS))
    assert time.monotonic() - start > 1
    hub.clear_faults()
    right = {name for name, data in PARTS.items() if digests[name] == hashlib.sha256(data).hexdigest()}
    assert right == PARTS.keys() - {"corrupt"}  # of which the client notices nothing
    assert errors["status"] == ["HfHubHTTPError"] * 2
    sizes = {name: len(data) for name, data in PARTS.items()}
    log = [(r.path.rpartition("/")[2], r.status, r.bytes_sent) for r in hub.requests if r.method == "GET"]
    failed = ("status", 500, len(b'{"error": "A fault that was asked for"}'))
    others = [(name, 200, sizes[name]) for name in ("slow", "corrupt", "right")]
    cut, whole = ("cut", 200, 1000), ("cut", 200, sizes["cut"])
    assert log == [cut, whole, failed, failed, ("status", 200, sizes["status"]), *others]
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


def test_commits_that_are_refused(hub):
    commit = hub.add_repo("owner/refusing", {"config.json": b"{}"})
    stored = {"oid": hashlib.sha256(b"content").hexdigest(), "size": 7}

    def post(path, *lines, token="hf_owner"):
        status, _, body = ask(hub, "POST", path, "\n".join(map(json.dumps, lines)).encode(), token)
        return status, json.loads(body)

    def write(path, key="file", data=b""):
        value = {"path": path, "content": base64.b64encode(data).decode()} | stored
        status, told = post("/api/models/owner/refusing/commit/main", {"key": "header"}, {"key": key, "value": value})
        return status, told.get("error")

    batch = ("/owner/refusing.git/info/lfs/objects/batch", {"ref": {"name": "main"}, "objects": [stored]})
    assert post(*batch, token="hf_stranger")[0] == 403
    upload = urlsplit(post(*batch)[1]["objects"][0]["actions"]["upload"]["href"]).path
    assert ask(hub, "PUT", upload, b"another")[0] == 400
    assert ask(hub, "PUT", "/lfs/0123", b"content")[0] == 403
    for path, key, data, error in (
        ("a.bin", "lfsFile", b"", "a.bin points to content that was not uploaded"),
        ("a.bin", "file", bytes(LFS_SIZE + 1), "a.bin is too large for git, and belongs into Git-LFS"),
        ("a.bin", "deletedFile", b"", "Unknown operation: deletedFile"),
        ("README.md", "file", b"---\nlicense: my-own\n---\n", "Invalid metadata in README.md"),
    ):
        status, told = write(path, key, data)
        assert status == 400 and told.startswith(error)
    assert hub.commits("owner/refusing") == [commit]
    assert ask(hub, "PUT", upload, b"content")[0] == 200
    assert write("a.bin", "lfsFile") == write("b.txt") == (200, None)
    assert hub.files("owner/refusing") == {"a.bin": b"content", "b.txt": b"", "config.json": b"{}"}


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
