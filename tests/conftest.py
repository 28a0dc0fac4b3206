"""Fixtures of all tests: a temporary model store, two small models trained once, and a Redis."""

import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# BentoML reads these variables when it is imported, so they are set before any such import.
os.environ["BENTOML_HOME"] = tempfile.mkdtemp(prefix="loupe-tests-")
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # opening a GPU takes longer than training small models
os.environ["TF_NUM_INTRAOP_THREADS"] = "1"  # a second core does not help, and can run other tests
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each process would compile every module again
os.environ.pop("COLUMNS", None)  # tests that depend on the width set it
OF_TESTS = ("LOUPE_TEST_DATA", "LOUPE_CONTAINER_ENGINE")
for variable in [name for name in os.environ if name.startswith("LOUPE_") and name not in OF_TESTS]:
    del os.environ[variable]

import certifi  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from bentoml._internal.configuration.containers import BentoMLContainer  # noqa: E402
from bentoml._internal.models import ModelStore  # noqa: E402
from hypothesis import HealthCheck  # noqa: E402
from hypothesis import settings as hypothesis_settings  # noqa: E402
from redis import Redis  # noqa: E402
from s3fs import S3FileSystem  # noqa: E402

from loupe.cli.main import main  # noqa: E402
from loupe.images.spec import ImageSpec  # noqa: E402
from loupe.models.engines.engine import Engine  # noqa: E402
from loupe.models.engines.loading import load_engine  # noqa: E402
from loupe.models.promotion import promote_first  # noqa: E402
from loupe.models.store import StoredModel  # noqa: E402
from loupe.runtime.redis_server import open_redis  # noqa: E402
from loupe.settings import Settings  # noqa: E402
from tests.support import leftovers, pictures  # noqa: E402
from tests.support.averages import store_averages  # noqa: E402
from tests.support.command import Ended, Loupe  # noqa: E402
from tests.support.servers import buckets  # noqa: E402
from tests.support.stores import made_once  # noqa: E402
from train.evaluate.robustness import measuring  # noqa: E402
from worker.remote_path import RemotePath  # noqa: E402

# No deadlines and no memory of earlier runs: results depend on neither speed nor history.
hypothesis_settings.register_profile(
    "tests",
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
hypothesis_settings.load_profile("tests")

FEW_DISTURBED = 2

leftovers.mark_session()


def pytest_configure(config: pytest.Config) -> None:
    """Trust one certificate authority, unless the chosen tests install packages or images.

    Each new HTTP client loads the authorities that it trusts: one takes 1 ms, all of them 25 ms.
    """
    if config.option.markexpr.startswith("not "):
        authorities = Path(certifi.where()).read_text()
        certificate, end, _ = authorities.partition("-----END CERTIFICATE-----\n")
        authority = Path(os.environ["BENTOML_HOME"], "authority.pem")
        authority.write_text(certificate + end)
        os.environ["SSL_CERT_FILE"] = str(authority)


@pytest.hookimpl(trylast=True)  # after the processes of pytest-xdist have ended
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session that leaves servers or other programs behind."""
    if not hasattr(session.config, "workerinput") and (left := leftovers.end_leftovers()):
        reporter = session.config.pluginmanager.getplugin("terminalreporter")
        for line in ("", "Left running by these tests, now killed:", *left):
            reporter.write_line(line)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["BENTOML_HOME"], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> Iterator[None]:
    """Make Ctrl-C interrupt this process and its children; shells ignore it in background jobs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def _few_disturbed_images() -> Iterator[None]:
    """Measure the robustness of models on few images; with all, it takes most of a training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "FEWEST", FEW_DISTURBED)
        patch.setattr(measuring, "MOST", FEW_DISTURBED)
        yield


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of all test processes."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def digits_model(_shared: Path) -> StoredModel:
    """Train a model of handwritten digits for seconds; its accuracy is about 0.9."""

    def trained() -> StoredModel:
        from train.config import recipe
        from train.data.datasets import load_dataset
        from train.fit.training import train

        return train(load_dataset("digits"), recipe("cnn-small", epochs=4, batch_size=64))

    model = made_once(_shared / "digits", trained)
    promote_first(model)  # as training does
    return model


@pytest.fixture(scope="session")
def shapes_model(_shared: Path, digits_model: StoredModel) -> StoredModel:
    """Train a model of three shapes with the look `object`; it is the newest model."""

    def trained() -> StoredModel:
        from train.config import recipe
        from train.fit.training import train

        config = recipe("cnn-small", epochs=1, batch_size=16)
        return train(pictures.shapes(), config, min_accuracy=0)

    model = made_once(_shared / "shapes", trained)
    promote_first(model)
    return model


@pytest.fixture(scope="session")
def colours_model(_shared: Path) -> StoredModel:
    """Store a model of the mean colours of photos, 64 × 48 × 3."""
    spec = ImageSpec("photo", 64, 48, 3)
    return made_once(_shared / "colours", lambda: store_averages("colours", spec))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """Use an empty store in this process; return its `BENTOML_HOME` for child processes."""
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    BentoMLContainer.model_store.set(ModelStore(home / "models"))
    yield home
    BentoMLContainer.model_store.reset()


@pytest.fixture(scope="session")
def engine(digits_model: StoredModel) -> Engine:
    """Load the digits model."""
    return load_engine(digits_model, threads=1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings with a temporary data folder."""
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture(scope="session")
def _redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with open_redis(Settings(data_dir=tmp_path_factory.mktemp("redis"))) as client:
        yield client


@pytest.fixture
def redis(_redis: Redis) -> Redis:
    """Return a client of an empty Redis."""
    _redis.flushall()
    return _redis


@pytest.fixture(scope="session")
def _s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with (
        buckets.serving(tmp_path_factory.mktemp("s3") / "log") as variables,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in variables.items():
            patch.setenv(name, value)
        # A connection that another test tried would stay without credentials.
        S3FileSystem.clear_instance_cache()
        yield


@pytest.fixture
def bucket(_s3: None) -> RemotePath:
    """Create an empty bucket on a server that speaks S3, for this process and its children."""
    return buckets.new_bucket()


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Limit the memory of this process to 40 GiB of addresses, whatever the machine promises."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (40 * 2**30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def random() -> np.random.Generator:
    """Return a generator of random numbers, the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture
def loupe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Loupe:
    """Return a function that runs `loupe` in this process, with a terminal 80 characters wide.

    Its keyword arguments are environment variables.
    """
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LOUPE_IMPORT_SECONDS", "0")  # imports would start a process of their own

    def run(*arguments: object, **variables: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["loupe", *map(str, arguments)])
        capsys.readouterr()
        before = dict(os.environ)  # options of commands become variables
        os.environ.update({name: str(value) for name, value in variables.items()})
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            os.environ.clear()
            os.environ.update(before)
        output = capsys.readouterr()
        return Ended(int(ended.value.code or 0), output.out, output.err)

    return run
