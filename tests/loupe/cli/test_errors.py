"""The command line: errors are one line with a code."""

import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from loupe.cli.main import main
from loupe.models.store import StoredModel
from tests.support import pictures
from tests.support.command import Loupe
from tests.support.programs import free_port, run
from tests.support.stores import copied, damage

# Bulk scoring


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, digits_model: StoredModel) -> Path:
    """Return a folder with one of each kind of source and output."""
    place = tmp_path_factory.mktemp("place")
    for name in ("empty", "texts", "images", "full"):
        (place / name).mkdir()
    (place / "texts" / "a.txt").write_text("text")
    (place / "images" / "a.png").write_bytes(pictures.png(pictures.digits(1)[0]))
    (place / "full" / "old.parquet").touch()
    (place / "file").write_text("text")
    np.save(place / "floats.npy", np.zeros((2, 28, 28)))
    return place


@pytest.mark.parametrize(
    ("source", "out", "model", "code", "text"),
    [
        pytest.param(
            "nowhere",
            "new",
            "digits",
            "invalid_source",
            "no such file or folder",
            id="no source",
        ),
        pytest.param(
            "empty",
            "new",
            "digits",
            "invalid_source",
            "picture",
            id="empty folder",
        ),
        pytest.param(
            "texts",
            "new",
            "digits",
            "invalid_source",
            "picture",
            id="no images",
        ),
        pytest.param(
            "file",
            "new",
            "digits",
            "invalid_source",
            "is text",
            id="text file",
        ),
        pytest.param(
            "floats.npy",
            "new",
            "digits",
            "invalid_source",
            "float64, shape (2, 28, 28)",
            id="floats",
        ),
        pytest.param(
            "images",
            "full",
            "digits",
            "invalid_output",
            "1 entries (old.parquet",
            id="full output",
        ),
        pytest.param(
            "images",
            "file",
            "digits",
            "invalid_output",
            "is a file",
            id="output is a file",
        ),
        pytest.param(
            "images",
            "file/x",
            "digits",
            "invalid_output",
            "Not a directory",
            id="output below a file",
        ),
        pytest.param(
            "images",
            "new",
            "birds",
            "model_not_found",
            "There is no model 'birds'. There are: ",
            id="no model",
        ),
    ],
)
def test_job_that_cannot_succeed_is_refused_in_one_line(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    out: str,
    model: str,
    code: str,
    text: str,
) -> None:
    monkeypatch.setenv("LOUPE_DATA_DIR", str(tmp_path))
    command = ["loupe", "score", str(place / source), "--out", str(place / out), "--model", model]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 1
    words = capsys.readouterr().err
    assert words.startswith(f"error: {code}: ")
    assert text in words
    assert words.count("\n") == 1
    assert not (place / "new").exists()


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        ("score images --out new --labels foo", "labels", "foo"),
        ("score images --out new --labels column:", "labels", "column:"),
        ("score images --out new --top-k 1234567890", "top_k", "1234567890"),
        ("score images --out new --threshold nan", "threshold", "less than or equal to 1"),
        ("serve --port 70000", "port", "70000"),
        ("up --port 0", "port", "0"),
        ("predict a.png --top-k 0", "top-k", "1"),
    ],
)
def test_impossible_option_is_wrong_usage(
    loupe: Loupe, command: str, name: str, value: str
) -> None:
    ended = loupe(*command.split())

    assert ended.code == 2
    assert ended.out == ""
    assert name in ended.err
    assert value in ended.err
    assert "pattern" not in ended.err
    assert "Traceback" not in ended.err


def test_score_without_redis_ends_in_one_line(loupe: Loupe, place: Path) -> None:
    ended = loupe(
        "score",
        place / "images",
        "--out",
        place / "new",
        LOUPE_REDIS_URL="redis://me:secret@127.0.0.1:1/0",
    )

    assert ended.code == 1
    assert ended.err.startswith("error: redis_unavailable: ")
    assert "redis://127.0.0.1:1/0 (LOUPE_REDIS_URL)" in ended.err
    assert "refused" in ended.err
    assert "secret" not in ended.err
    assert ended.err.count("\n") == 1


def test_worker_without_redis_ends_in_one_line(loupe: Loupe) -> None:
    ended = loupe("worker", LOUPE_REDIS_URL="redis://127.0.0.1:1/0")

    assert ended.code == 1
    assert ended.err.startswith("error: redis_unavailable: ")
    assert "redis://127.0.0.1:1/0 (LOUPE_REDIS_URL)" in ended.err
    assert ended.err.count("\n") == 1


def test_missing_source_ends_with_code_1_and_one_line(
    loupe: Loupe, place: Path, tmp_path: Path
) -> None:
    ended = loupe("score", place / "nowhere", "--out", place / "new", LOUPE_DATA_DIR=tmp_path)

    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.startswith("error: invalid_source: ")
    assert f"'{place / 'nowhere'}'" in ended.err
    assert ended.err.count("\n") == 1


# The service


def test_empty_store_ends_the_service_in_one_line(tmp_path: Path) -> None:
    ended = run("serve", "--port", free_port(), BENTOML_HOME=tmp_path)

    assert ended.returncode == 1
    assert ended.stderr.startswith("error: model_not_found: ")
    assert ended.stderr.endswith("loupe train fashion-mnist\n")
    assert ended.stderr.count("\n") == 1


def test_corrupted_model_ends_the_service_in_one_line(
    tmp_path: Path, digits_model: StoredModel
) -> None:
    damage(copied(digits_model, tmp_path).folder / "model.onnx")
    ended = run("serve", "--port", free_port(), BENTOML_HOME=tmp_path)

    assert ended.returncode == 1
    assert ended.stderr.startswith("error: model_corrupted: ")
    assert f"'{digits_model.tag}'" in ended.stderr
    assert "model.onnx" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_missing_default_model_ends_the_service_in_one_line(
    loupe: Loupe, digits_model: StoredModel
) -> None:
    ended = loupe("serve", "--port", free_port(), "--model", "birds")

    assert ended.code == 1
    assert ended.err.startswith("error: model_not_found: There is no model 'birds'. There are: ")
    assert ended.err.count("\n") == 1


def test_port_in_use_ends_the_service_in_one_line(loupe: Loupe, digits_model: StoredModel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = loupe("serve", "--port", port, "--model", digits_model.tag)

    assert ended.code == 1
    assert ended.err.startswith("error: address_in_use: ")
    assert f"127.0.0.1:{port}" in ended.err
    assert ended.err.endswith("--port or LOUPE_PORT.\n")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("host", ["999.1.1.1", "192.0.2.1"])  # invalid, and unassigned
def test_serve_names_a_host_that_is_not_this_machine(
    loupe: Loupe, digits_model: StoredModel, host: str
) -> None:
    ended = loupe("serve", "--host", host, "--port", free_port(), "--model", digits_model.tag)

    assert ended.code == 1
    assert "error: host_unknown: " in ended.err
    assert f"'{host}'" in ended.err


def test_bad_setting_ends_the_program_in_one_line(loupe: Loupe) -> None:
    ended = loupe("serve", LOUPE_PORT="eighty", LOUPE_ENGINE="torch")

    assert ended.code == 1
    assert ended.err.startswith("error: invalid_setting: ")
    assert "LOUPE_ENGINE has value 'torch'" in ended.err
    assert "LOUPE_PORT has value 'eighty'" in ended.err
    assert ended.err.count("\n") == 1


# Models and data sets


def test_unknown_data_set_is_refused_with_the_names_there_are(loupe: Loupe) -> None:
    ended = loupe("train", "--dataset", "letters")

    assert ended.code == 2
    assert ended.err.startswith("error: unknown_dataset: ")
    assert "'letters'" in ended.err
    for name in ("fashion-mnist", "mnist", "digits", "digits-8x8", "idx:DIR", "folder:DIR"):
        assert f"{name}," in ended.err


def test_without_a_command_the_help_is_shown(loupe: Loupe) -> None:
    shown = loupe("--help")

    assert shown.code == 0
    for command in ("train", "serve", "predict", "score", "worker", "jobs", "models", "data"):
        assert command in shown.out


def test_up_is_refused_if_the_port_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run(
            "up", "--port", port, BENTOML_HOME=tmp_path / "store", LOUPE_DATA_DIR=tmp_path / "data"
        )

    assert ended.returncode == 1
    assert ended.stdout == ""  # no banner, and no training before it
    assert ended.stderr.startswith("error: address_in_use: ")
    assert f"127.0.0.1:{port}" in ended.stderr


def test_up_trains_the_data_set_of_its_option(tmp_path: Path) -> None:
    folders = {"BENTOML_HOME": tmp_path / "store", "LOUPE_DATA_DIR": tmp_path / "data"}
    ended = run("up", "--train", "mnits", "--port", free_port(), **folders)

    assert ended.returncode == 2
    assert (
        "error: unknown_dataset: There is no data set 'mnits'. Did you mean mnist?" in ended.stderr
    )


def test_scoring_without_out_says_how(loupe: Loupe, tmp_path: Path) -> None:
    for source, command in (("p.zip", "loupe score p.zip --out p.csv"), (".", "../results.csv")):
        ended = loupe("score", source)
        assert ended.code == 2
        assert command in ended.err


@pytest.mark.parametrize("arguments", [("", "--out", "new"), ("--resume", "")])
def test_empty_path_is_not_the_current_folder(
    loupe: Loupe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = loupe("score", *arguments, "--local")

    assert ended.code == 2
    assert ended.err.startswith("error: invalid_usage: ")
    assert not (tmp_path / "new").exists()


def test_output_inside_the_source_is_refused(
    loupe: Loupe, digits_model: StoredModel, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(pictures.png(pictures.digits(1)[0]))
    ended = loupe(
        "score", tmp_path, "--out", tmp_path / "results", LOUPE_DATA_DIR=tmp_path / "data"
    )

    assert ended.code == 1
    assert ended.err.startswith("error: invalid_output: ")
    assert "inside the source" in ended.err
    assert not (tmp_path / "results").exists()


# Missing packages


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        ("train --dataset digits", "sklearn", "train"),
        ("train --dataset digits", "tensorflow", "train"),
        ("data show digits", "sklearn", "train"),
        ("serve", "httptools", "service"),
        ("worker", "redis", "worker"),
        ("worker", "pyarrow", "worker"),
        ("score pictures --out rows", "redis", "worker"),
        ("jobs", "redis", "worker"),
        ("up", "redis", "all"),
    ],
)
def test_command_without_its_packages_names_the_extra(
    tmp_path: Path, digits_model: StoredModel, command: str, package: str, extra: str
) -> None:
    (tmp_path / f"{package}.py").write_text(
        f"raise ModuleNotFoundError(\"No module named '{package}'\", name='{package}')"
    )

    ended = run(*command.split(), PYTHONPATH=tmp_path, LOUPE_PORT=free_port())

    assert ended.returncode == 1
    assert "package_missing" in ended.stderr
    assert f"'{package}'" in ended.stderr
    assert f"'.[{extra}]'" in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr


def test_other_commands_are_listed_without_their_packages(tmp_path: Path) -> None:
    for package in ("redis", "httptools", "pyarrow", "tensorflow", "sklearn", "httpx"):
        (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError(name='{package}')")

    listed = run("--help", PYTHONPATH=tmp_path)

    assert listed.returncode == 0
    assert all(name in listed.stdout for name in ("train", "serve", "worker", "predict"))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "command",
    [
        "train --dataset digits --min-accuracy",
        "train --resume run --min-accuracy",
        "train --dataset digits --validation",
        "train --dataset digits --weight-decay",
        "train sweep --dataset digits --out new --lr",
        "train sweep --dataset digits --out new --test-fraction",
        "score images --out new --threshold",
        "predict image.png --threshold",
    ],
)
def test_numbers_of_options_are_finite(command: str, value: str, loupe: Loupe) -> None:
    assert loupe(*command.split(), value).code == 2
