"""Settings, read from `LOUPE_…` environment variables once per process."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from loupe.errors import InvalidSetting, InvalidUsage
from loupe.runtime.cores import available_cores

ENV_PREFIX = "LOUPE_"
CREDENTIALS = re.compile(r"(?<=://)[^/\s]*(?=@)")  # user and password in a URL


def _pattern(pattern: str, expected: str) -> AfterValidator:
    """Return a validator that refuses text which does not match `pattern`."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            context = {"expected": expected}
            raise PydanticCustomError("pattern", "Input should be {expected}", context)
        return text

    return AfterValidator(check)


MAX_PROCESSES = 1024


def _count_processes(value: object) -> int:
    """Return a number of processes: `auto` is one for each core."""
    if value == "auto":
        return available_cores()
    try:
        number = int(str(value))
    except ValueError:
        number = 0
    if not 1 <= number <= MAX_PROCESSES:
        context = {"most": MAX_PROCESSES}
        raise PydanticCustomError(
            "processes", "Input should be auto, or a number from 1 to {most}", context
        )
    return number


_ORIGIN = r"\s*(null|[a-z][a-z0-9+.-]*://[^A-Z\s,/]+)?\s*"  # as browsers write it
HttpsAccess = Literal["none", "public", "any"]
LogFormat = Literal["text", "json"]

Origins = Annotated[
    str,
    _pattern(
        rf"\s*\*\s*|{_ORIGIN}(,{_ORIGIN})*",
        "*, or origins such as https://app.example, in lower case and without a path",
    ),
]
EngineName = Literal["onnx", "openvino", "tensorflow"]
Folders = Annotated[
    str, _pattern(r"([/~][^:]*)?(:([/~][^:]*)?)*", "absolute paths separated by colons")
]
RootPath = Annotated[str, _pattern(r"(/[A-Za-z0-9._~-]+)+", "a path such as /loupe")]
WebhookUrl = Annotated[
    str, _pattern(r"https?://[^\s/?#]+(/[!-~]*)?", "an address such as https://hooks.example/loupe")
]
Processes = Annotated[int, BeforeValidator(_count_processes)]
RedisUrl = Annotated[
    str,
    _pattern(
        r"(rediss?(\+sentinel|\+cluster)?|unix)://.+",
        "a URL such as redis://host:6379/0, rediss://…, unix://…, "
        "redis+sentinel://host:26379,host:26379/primary/0 or redis+cluster://host:6379,host:6379",
    ),
]


class Settings(BaseSettings):
    """All settings with their defaults. Each says how to choose it."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,  # as descriptions
    )

    data_dir: Path = Path("~/.loupe")
    """Folder of the embedded Redis, uploads and training runs.

    Processes that share it share the queue.
    """
    model: str | None = None
    """Model that answers when none is named: NAME, NAME:VERSION or NAME:production.

    Unset: the first of LOUPE_MODELS, or the name that was put into production first.
    """
    engine: EngineName = "onnx"
    """onnx, openvino or tensorflow. OpenVINO is faster on processors with bfloat16; it needs the
    extra openvino. TensorFlow is the slow reference; it needs the extra train.
    """
    threads: int | None = Field(default=None, ge=1)
    """Cores for an engine, one run on each.

    Unset: all that CPU affinity and control-group quotas allow.
    """
    max_image_pixels: int = Field(default=50_000_000, ge=1)
    """Maximum pixels of one image, as its header says. Large phones take 50 million."""
    decode_seconds: float = Field(default=5.0, gt=0, le=60)
    """CPU time for decoding an image of 50 megapixels; smaller ones get a share, at least a fifth.
    An image that needs more gets an error.

    The largest images take about two seconds on a current core.
    """
    import_seconds: float = Field(default=600.0, ge=0)
    """CPU time for `loupe models import`, which runs a model that another program made. More for
    large networks with many test images; 0 for no limits of time and memory.
    """
    shutdown_timeout_seconds: int = Field(default=10, ge=1)
    """How long requests and shards in flight may take to finish after a stop signal."""
    drain_seconds: float = Field(default=0.0, ge=0, le=600)
    """How long the service still answers after SIGTERM, with /readyz at 503, so that load
    balancers notice. Set it to a little more than their interval of health checks.
    """
    host: str = "127.0.0.1"
    """Address to listen on. Use 0.0.0.0 in containers: like ::, it means all addresses, IPv4 and
    IPv6.
    """
    port: int = Field(default=3000, ge=1, le=65535)
    """Port to listen on."""
    grpc_port: int | None = Field(default=None, ge=1, le=65535)
    """Port of the Open Inference Protocol over gRPC, at the same address; it needs the extra
    grpc. Unset: no gRPC.
    """
    processes: Processes = 1
    """Processes of the service, which share its port, cores and limits; auto for one on each core
    that CPU affinity and control-group quotas allow. At most 1024.
    """
    models: str | None = None
    """Models to serve, separated by commas: NAME, NAME:VERSION, NAME:production or NAME:latest.

    Unset: every name in the store, including later ones.
    """
    follow_seconds: float = Field(default=1.0, gt=0)
    """How often the service checks the store for trained or promoted models."""
    api_keys: SecretStr | None = None
    """API keys of callers, separated by commas: NAME:KEY, or NAME:sha256:DIGEST as `loupe key
    NAME` prints it. Roles follow the name: NAME/predict+jobs+admin:KEY. Unset: everyone may call.
    """
    api_keys_file: Path | None = None
    """File with one such entry per line."""
    key_limits: str | None = None
    """Limits of API keys, separated by commas: NAME:10/s+50000/day, or with one of both; * is the
    name of all other keys. They count requests of all kinds, and images of predictions in a day of
    UTC. Unset: none.
    """
    cors_origins: Origins | None = None
    """Origins whose pages may call the service from a browser, separated by commas; * for all.

    Unset: only its own.
    """
    allowed_hosts: str | None = None
    """Names in the `Host` header that the service answers to, separated by commas; * for all.

    Addresses and localhost always work. Unset: all names; at a loopback address without API keys,
    none.
    """
    trusted_proxies: str | None = None
    """Addresses or networks of proxies, separated by commas, whose X-Forwarded-For, -Proto and
    -Prefix count. Unset: none.
    """
    root_path: RootPath | None = None
    """Path under which a proxy serves the service, such as /loupe. Unset: none."""
    access_log: bool = False
    """Log one line per request."""
    log_format: LogFormat = "text"
    """Format of the log of the service and the workers: text or json."""
    batching: bool = True
    """Compute requests together. Off: each one separately, for comparison."""
    max_batch_size: int = Field(default=128, ge=1)
    """Maximum images in one run of the engine. Above a hundred, nothing gets faster, only later."""
    max_requests: int = Field(default=256, ge=1)
    """Maximum requests in flight of one caller, and half as many more of all callers; more get 429
    immediately. Bounds the waiting time."""
    max_queued_images: int = Field(default=8192, ge=1)
    """Maximum images of one caller waiting for the engine, and half as many more of all callers;
    beyond it, requests get 429 immediately."""
    max_images_per_request: int = Field(default=4096, ge=1)
    """Maximum images in one request. Use jobs for larger sets."""
    max_body_bytes: int = Field(default=64 * 2**20, ge=1)
    """Maximum bytes of a request body. Bounds the memory one caller can take."""
    max_json_bytes: int = Field(default=16 * 2**20, ge=1)
    """Maximum bytes of JSON in a request body. Parsing more would keep other requests waiting."""
    request_timeout_seconds: float = Field(default=10.0, gt=0, le=25)
    """Seconds that a request may take until its answer, before it gets 504; at most 25."""
    redis_url: RedisUrl | None = None
    """Redis of the job queue: redis://HOST:6379/0, rediss://… with TLS, unix://PATH,
    redis+sentinel://HOST:26379,HOST:26379/PRIMARY/0 or redis+cluster://HOST:6379,HOST:6379.

    Unset: an embedded one in the data folder.
    """
    redis_password_file: Path | None = None
    """File with the password of that Redis, if its URL has none."""
    job_roots: Folders | None = None
    """Folders that jobs submitted over HTTP may read: absolute paths, separated by colons.

    Unset: none, only uploads.
    """
    max_upload_bytes: int = Field(default=4 * 2**30, ge=1)
    """Maximum bytes of an upload. Uploads are kept in the data folder."""
    capture: float = Field(default=0.0, ge=0, le=1)
    """Share of the images of predictions, 0 to 1, that the service keeps for review in the data
    folder, at most 20 a second. 0: none.
    """
    capture_images: int = Field(default=1000, ge=1, le=10_000)
    """How many of them are kept; the oldest are deleted."""
    capture_bytes: int = Field(default=64 * 2**20, ge=1)
    """Maximum bytes of those."""
    capture_days: float = Field(default=30.0, gt=0)
    """How long they are kept."""
    https_sources: bool = False
    """Allow https:// URLs as sources and in manifests.

    Workers then fetch from any public address that a caller names.
    """
    https_private_addresses: bool = False
    """Let these URLs lead to private, loopback and link-local addresses too."""
    webhook_url: WebhookUrl | None = None
    """Address that gets a signed message when a job over HTTP has ended. Unset: none."""
    webhook_secret: SecretStr | None = None
    """Secret that signs these messages: whsec_ and 24 to 64 random bytes in base64."""
    shard_images: int = Field(default=4096, ge=1)
    """Images in one shard of a job: a few seconds of work, so that little is lost."""
    lease_seconds: float = Field(default=3.0, gt=0)
    """How long a silent worker keeps its shard. Longer than any pause of the machine."""
    max_attempts: int = Field(default=5, ge=1)
    """Attempts at a shard before it fails, and the job with it."""
    keep_jobs_days: float = Field(default=30.0, gt=0)
    """How long the record of an ended job is kept."""
    keep_results_days: float | None = Field(default=None, gt=0)
    """How long the service keeps uploads and results in the data folder after their job has ended;
    then it deletes the job, too. Unset: until you delete them.
    """
    worker_metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Port at LOUPE_HOST for a worker's metrics; with several processes, each next one has
    the next port. Unset: no metrics.
    """
    url: str | None = None
    """Address of the service for `loupe predict`, such as http://HOST:PORT.

    Unset: this machine at LOUPE_PORT.
    """
    api_key: SecretStr | None = None
    """API key that `loupe predict` sends. Unset: none."""

    @property
    def model_tags(self) -> list[str]:
        """The models to serve; empty for every name in the store."""
        return _split(self.models)

    @property
    def https_access(self) -> HttpsAccess:
        """Addresses that `https` URLs of sources may lead to."""
        if not self.https_sources:
            return "none"
        return "any" if self.https_private_addresses else "public"

    @property
    def default_tag(self) -> str | None:
        """The model that answers when none is named; `None` for the store's first name."""
        return self.model or next(iter(self.model_tags), None)

    @property
    def max_images(self) -> int:
        """Maximum images in one request, which must fit into an empty queue."""
        return min(self.max_images_per_request, self.max_queued_images)

    @property
    def origins(self) -> list[str]:
        """The origins whose pages may call the service."""
        return _split(self.cors_origins)

    @property
    def host_names(self) -> list[str]:
        """The names that the service answers to."""
        return _split(self.allowed_hosts)

    @property
    def keep_jobs_seconds(self) -> float:
        """The seconds that the record of an ended job is kept."""
        return self.keep_jobs_days * 24 * 3600

    @property
    def proxies(self) -> list[str]:
        """The addresses and networks of trusted proxies."""
        return _split(self.trusted_proxies)

    @property
    def source_roots(self) -> list[Path]:
        """The folders that jobs submitted over HTTP may read."""
        parts = (self.job_roots or "").split(os.pathsep)
        return [Path(part).expanduser().absolute() for part in parts if part]

    @property
    def needs_keys(self) -> bool:
        """Tell whether callers of the service need an API key."""
        return self.api_keys is not None or self.api_keys_file is not None

    @property
    def home(self) -> Path:
        """The data folder as an absolute path."""
        return self.data_dir.expanduser().absolute()


def traces_wanted(environment: Mapping[str, str]) -> bool:
    """Return whether OpenTelemetry's own variables ask for traces over OTLP."""
    if (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environment.get("OTEL_TRACES_EXPORTER") == "none"
    ):
        return False
    return any(
        environment.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("TRACES_ENDPOINT", "ENDPOINT")
    )


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def load_settings() -> Settings:
    """Read the settings of this process.

    Raises:
        InvalidSetting: If variables have invalid values; the message names each.
    """
    return _load({})


def override_settings(**options: str | int | None) -> Settings:
    """Set the variables of command-line options, for this process and its children, and load.

    Args:
        options: Values by name of the setting; `None` keeps the variable.

    Raises:
        InvalidUsage: If options have invalid values; the message names each.
        InvalidSetting: If other variables have.
    """
    given = {name: value for name, value in options.items() if value is not None}
    _load(given)
    os.environ.update({f"{ENV_PREFIX}{name.upper()}": str(value) for name, value in given.items()})
    return load_settings()


def _load(options: Mapping[str, str | int]) -> Settings:
    try:
        return Settings.model_validate(options)
    except ValidationError as error:
        problems = [(str(each["loc"][0]), each["input"], each["msg"]) for each in error.errors()]
        wrong = [
            f"--{name.replace('_', '-')} cannot be {value!r}: {reason}"
            for name, value, reason in problems
            if name in options
        ]
        if wrong:
            raise InvalidUsage(f"{'; '.join(wrong)}.") from error
        variables = [
            f"{ENV_PREFIX}{name.upper()} has value {CREDENTIALS.sub('…', str(value))!r}: {reason}"
            for name, value, reason in problems
        ]
        raise InvalidSetting("; ".join(variables)) from error
