"""Settings, read from `LOUPE_…` environment variables once per process."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from loupe.old_errors.core import InvalidSetting

ENV_PREFIX = "LOUPE_"
SECRET = re.compile(r"(?<=://)[^/\s]*(?=@)")  # name and password in an address


def _like(pattern: str, expected: str) -> AfterValidator:
    """What refuses a text that a pattern does not match, with words for it."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise PydanticCustomError(
                "pattern", "Input should be {expected}", {"expected": expected}
            )
        return text

    return AfterValidator(check)


_ORIGIN = r"\s*(null|[a-z][a-z0-9+.-]*://[^A-Z\s,/]+)?\s*"  # as browsers write them
_ORIGINS = rf"\s*\*\s*|{_ORIGIN}(,{_ORIGIN})*"
Origins = Annotated[
    str,
    _like(_ORIGINS, "*, or origins as https://app.example, in small letters and without a path"),
]
Folders = Annotated[
    str, _like(r"([/~][^:]*)?(:([/~][^:]*)?)*", "absolute paths with colons between")
]
RedisUrl = Annotated[
    str, _like(r"(rediss?|unix)://.+", "an address as redis://host:6379/0, rediss://… or unix://…")
]


class Settings(BaseSettings):
    """All settings with their defaults; each says how to choose it."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", env_ignore_empty=True
    )

    data_dir: Path = Field(
        default=Path("~/.loupe"),
        description="Folder of the embedded Redis and of cached data sets. Processes that share it share the queue.",
    )
    redis_url: RedisUrl | None = Field(
        default=None,
        description="Redis of the job queue, as redis://host:6379/0. Unset: an embedded one in the data folder.",
    )
    redis_password_file: Path | None = Field(
        default=None,
        description="A file with the password of that Redis, where its address has none.",
    )
    engine: Literal["onnx", "tensorflow"] = Field(
        default="onnx",
        description="What runs the models. TensorFlow is the slow reference; it needs loupe[train].",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="Cores that an engine may use, each for runs of its own. Unset: all the process may, "
        "by its CPU affinity and the quotas of its control groups.",
    )
    model: str | None = Field(
        default=None,
        description="Model that answers where none is named: NAME, NAME:VERSION or NAME:production. "
        "Unset: the first of LOUPE_MODELS, or the name that has the newest in the store.",
    )
    models: str | None = Field(
        default=None,
        description="Models to serve, with commas between: NAME, NAME:VERSION, NAME:production or NAME:latest each. "
        "Unset: every name in the store, those that come later too.",
    )
    follow_seconds: float = Field(
        default=1.0,
        gt=0,
        description="How often the service looks for what was trained or promoted meanwhile.",
    )
    host: str = Field(
        default="127.0.0.1", description="Address the service listens on. Containers want 0.0.0.0."
    )
    port: int = Field(default=3000, ge=1, le=65535, description="Port the service listens on.")
    grpc_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port of the Open Inference Protocol over gRPC, at the same address; it needs loupe[grpc]. Unset: no gRPC.",
    )
    api_keys: SecretStr | None = Field(
        default=None,
        description="Who may call the service, with commas between: NAME:KEY, or NAME:sha256:DIGEST as `loupe key NAME` prints it. "
        "Unset: everybody.",
    )
    api_keys_file: Path | None = Field(
        default=None, description="A file with such an entry on each line."
    )
    cors_origins: Origins | None = Field(
        default=None,
        description="Origins whose pages may call the service from a browser, with commas between; * for all. Unset: none but its own.",
    )
    access_log: bool = Field(
        default=False, description="Whether every request gets a line in the log."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="The service's log, for people or for programs."
    )
    batching: bool = Field(
        default=True,
        description="Whether requests are computed together. Off: each by itself, to compare.",
    )
    url: str | None = Field(
        default=None,
        description="Where `loupe predict` finds the service, as http://HOST:PORT. Unset: on this machine, at LOUPE_PORT.",
    )
    api_key: SecretStr | None = Field(
        default=None, description="The key that `loupe predict` shows the service. Unset: none."
    )
    max_batch_size: int = Field(
        default=128,
        ge=1,
        description="Most images in one run of the engine. Above a hundred nothing gets faster, only later.",
    )
    max_requests: int = Field(
        default=256,
        ge=1,
        description="Requests in hand at a time; beyond it they get 429 at once. Bounds how long anybody waits.",
    )
    max_queued_images: int = Field(
        default=8192,
        ge=1,
        description="Images that may wait for the engine; beyond it requests get 429 at once.",
    )
    max_images_per_request: int = Field(
        default=4096, ge=1, description="Images in one request; larger sets are jobs."
    )
    max_body_bytes: int = Field(
        default=64 * 2**20,
        ge=1,
        description="Bytes of one request's body. Bounds the memory one caller can take.",
    )
    job_roots: Folders | None = Field(
        default=None,
        description="Folders that jobs submitted over HTTP may read, as absolute paths with colons between. Unset: none, only uploads.",
    )
    max_upload_bytes: int = Field(
        default=4 * 2**30,
        ge=1,
        description="Bytes of an upload to be scored as a job. Uploads are kept in the data folder.",
    )
    max_image_pixels: int = Field(
        default=50_000_000,
        ge=1,
        description="Pixels of one image, as its header says. Large phones make 50 million.",
    )
    request_timeout_seconds: float = Field(
        default=10.0,
        gt=0,
        le=25,
        description="How long an image may wait for the engine before its caller gets 504.",
    )
    shutdown_timeout_seconds: int = Field(
        default=10,
        ge=1,
        description="How long requests and shards in hand may take to finish after a stop signal.",
    )
    shard_images: int = Field(
        default=4096,
        ge=1,
        description="Images of one shard of a job: a few seconds of work, so that little is lost.",
    )
    lease_seconds: float = Field(
        default=3.0,
        gt=0,
        description="How long a silent worker keeps its shard. Longer than any pause of the machine.",
    )
    keep_jobs_days: float = Field(
        default=30.0,
        gt=0,
        description="How long a job that has ended is remembered. Its results stay where they are.",
    )
    max_attempts: int = Field(
        default=5,
        ge=1,
        description="Times a shard is tried before it, and with it the job, has failed.",
    )
    worker_metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port at LOUPE_HOST where Prometheus finds a worker's metrics; of several processes of one command, each has the "
        "next. Unset: none.",
    )

    https_sources: bool = Field(
        default=False,
        description="Whether sources, and lines of manifests, may be https:// URLs. Workers then fetch from whatever host somebody names.",
    )

    @property
    def model_tags(self) -> list[str]:
        """The models to serve; none for every name in the store."""
        return _listed(self.models)

    @property
    def default_tag(self) -> str | None:
        """The model that answers where none is named; none for the name that has the newest in the store."""
        return self.model or next(iter(self.model_tags), None)

    @property
    def most_images(self) -> int:
        """That a request may hold: more would not even find room in an empty queue."""
        return min(self.max_images_per_request, self.max_queued_images)

    @property
    def origins(self) -> list[str]:
        """The origins whose pages may call."""
        return _listed(self.cors_origins)

    @property
    def source_roots(self) -> list[Path]:
        """The folders that jobs submitted over HTTP may read."""
        return [
            Path(part).expanduser().absolute()
            for part in (self.job_roots or "").split(os.pathsep)
            if part
        ]

    @property
    def needs_keys(self) -> bool:
        """Whether callers of the service need an API key."""
        return self.api_keys is not None or self.api_keys_file is not None

    @property
    def home(self) -> Path:
        """The data folder as an absolute path."""
        return self.data_dir.expanduser().absolute()


def traces_wanted(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own variables, which are no settings of Loupe's, ask for traces over OTLP."""
    if (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environment.get("OTEL_TRACES_EXPORTER") == "none"
    ):
        return False
    return any(
        environment.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("TRACES_ENDPOINT", "ENDPOINT")
    )


def _listed(text: str | None) -> list[str]:
    """What stands between commas."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def load_settings() -> Settings:
    """The settings of this process.

    Raises:
        InvalidSetting: If a variable has a value it cannot have; the message names each.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise InvalidSetting(
            {
                ENV_PREFIX + "_".join(str(part) for part in problem["loc"]).upper(): (
                    SECRET.sub("…", str(problem["input"])),
                    problem["msg"],
                )
                for problem in error.errors()
            }
        ) from error


def override_settings(**options: str | int | None) -> Settings:
    """Load the settings with command-line options on top, for this process and its children.

    Args:
        options: By name of the setting; `None` leaves the variable as it is.
    """
    for name, value in options.items():
        if value is not None:
            os.environ[f"{ENV_PREFIX}{name.upper()}"] = str(value)
    return load_settings()
