"""How the server treats requests: limits, times, what it writes down.

`openm3 serve` has an option for each field, made from the field itself: `max_body_bytes` is `--max-body-bytes`, and
`cors_origins`, a tuple, is `--cors-origin`, which may be given again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from openm3.errors import InputError


def setting(default: Any, help_: str, *, metavar: str | None = None) -> Any:
    """A field of `Settings` with the help of its option."""
    return field(default=default, metadata={"help": help_, "metavar": metavar})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The server's settings; every default works. Times are seconds.

    Raises:
        InputError: a value is out of range.
    """

    max_waiting: int = setting(
        256, "Requests that may wait for the engine; what is more is refused at once.", metavar="N"
    )
    max_body_bytes: int = setting(64 << 20, "The largest body of a request.", metavar="BYTES")
    embeddings: str = setting(
        "all-minilm-l6-v2",
        "What /v1/embeddings answers with: a sentence model of `openm3 models`, a folder in the layout of "
        "sentence-transformers, or a hub id. It is loaded, and fetched where needed, when first asked.",
        metavar="MODEL",
    )
    images: str | None = setting(
        None,
        "What /v1/images draws with: the folder of a diffusers pipeline (pip install 'openm3[images]'). It is loaded "
        "when first asked.",
        metavar="DIR",
    )
    max_image_pixels: int = setting(1 << 20, "The largest image, width times height.", metavar="N")
    max_image_steps: int = setting(100, "Steps of an image.", metavar="N")
    data: str | None = setting(
        None, "Folder of uploaded files and batches.  [default: the platform's data folder]", metavar="DIR"
    )
    max_file_bytes: int = setting(512 << 20, "The largest file of /v1/files.", metavar="BYTES")
    max_files_bytes: int = setting(8 << 30, "All files of a key together.", metavar="BYTES")
    upload_s: float = setting(900.0, "The longest time for a file to arrive.", metavar="S")
    max_batch_requests: int = setting(50_000, "Requests of a batch.", metavar="N")
    head_s: float = setting(20.0, "The longest time for the head of a request to arrive.", metavar="S")
    body_s: float = setting(60.0, "The longest time for a body to arrive.", metavar="S")
    request_s: float = setting(3600.0, "The longest time for an answer.", metavar="S")
    send_s: float = setting(60.0, "The longest time for a client to take a piece of its answer.", metavar="S")
    max_stored_bytes: int = setting(
        64 << 20,
        "The newest /v1/responses that are kept, to be gone on with; with --data on disk too.",
        metavar="BYTES",
    )
    grace_s: float = setting(5.0, "How long running requests may go on after SIGTERM or Ctrl-C.", metavar="S")
    fetch_media: bool = setting(True, "Fetch images and videos that messages name by their address.")
    cors_origins: tuple[str, ...] = setting(
        (), "Pages of this origin may call the server, '*' for all; may be given again. Default: none.", metavar="URL"
    )
    upstreams: tuple[str, ...] = setting(
        (),
        "Hand requests on to a server with the OpenAI API, URL or URL=WEIGHT, instead of loading a model; may be "
        "given again.",
        metavar="URL",
    )
    upstream_models: tuple[str, ...] = setting(
        (), "What upstreams call a model that clients know by another name; may be given again.", metavar="NAME=THEIRS"
    )
    upstream_key_env: str | None = setting(
        None, "The environment variable that holds the upstreams' key.", metavar="VARIABLE"
    )
    upstream_running: int = setting(256, "Requests that an upstream is given at once; others wait.", metavar="N")
    upstream_check_s: float = setting(10.0, "Time between checks whether upstreams are up.", metavar="S")
    log_format: Literal["json", "text"] = setting("json", "How requests are logged: a line each, on standard error.")
    log_prompts: bool = setting(False, "Write what was asked into the log too.")
    otlp_endpoint: str | None = setting(
        None,
        "Tell a collector of OpenTelemetry where the time of each request went (pip install 'openm3[otel]').",
        metavar="URL",
    )
    database: str | None = setting(
        None, "Keys and books: a postgresql:// URL or SQLite's file.  [default: in the data folder]", metavar="URL"
    )
    plans: str | None = setting(None, "A TOML file of plans, in place of plus, max and ultra.", metavar="FILE")
    open: bool = setting(False, "Serve requests without a key, even where there are keys.")

    def __post_init__(self) -> None:
        if self.max_waiting < 0:
            raise InputError("max_waiting", f"{self.max_waiting} is below 0")
        for name in (
            "max_body_bytes",
            "max_image_pixels",
            "max_image_steps",
            "max_file_bytes",
            "max_files_bytes",
            "upload_s",
            "max_batch_requests",
            "head_s",
            "body_s",
            "request_s",
            "send_s",
            "upstream_running",
            "upstream_check_s",
        ):
            if not getattr(self, name) > 0:
                raise InputError(name, f"{getattr(self, name)} is not above 0")
        if self.otlp_endpoint is not None and not self.otlp_endpoint.startswith(("http://", "https://")):
            raise InputError(
                "otlp_endpoint", f"{self.otlp_endpoint!r} is no http:// or https:// address of a collector"
            )
        if not self.max_stored_bytes >= 0:
            raise InputError("max_stored_bytes", f"{self.max_stored_bytes} is below 0")
        if not self.grace_s >= 0:
            raise InputError("grace_s", f"{self.grace_s} is below 0")
