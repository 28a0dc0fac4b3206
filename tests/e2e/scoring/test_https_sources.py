"""Sources on a web server with TLS, scored on the command line."""

import csv
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas
import pytest

from loupe.models.store import StoredModel
from tests.support import pictures
from tests.support.programs import run
from tests.support.servers import tls_server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the same images as arrays, archives, a table and a manifest of pictures."""
    folder = tmp_path_factory.mktemp("site")
    images = pictures.digits(30)
    np.save(folder / "images.npy", images)
    np.savez(folder / "arrays.npz", images=images, labels=np.arange(30))
    np.savetxt(folder / "pixels.csv", images.reshape(30, -1), "%d", ",")
    with (
        zipfile.ZipFile(folder / "images.zip", "w") as archive,
        (folder / "list.csv").open("w") as lines,
    ):
        writer = csv.writer(lines)
        writer.writerow(["path"])
        for number, image in enumerate(images):
            name = f"{number:02d}.png"
            (folder / name).write_bytes(pictures.png(image))
            archive.write(folder / name, name)
            writer.writerow([name])
    with tarfile.open(folder / "images.tar.xz", "w:xz") as packed:
        for file in sorted(folder.glob("*.png")):
            packed.add(file, file.name)
    return folder


@pytest.fixture(scope="module")
def site(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Serve the folder; yield its URL and the path of the certificate."""
    with tls_server.serving(folder, tmp_path_factory.mktemp("tls")) as served:
        yield served


def rows_of(source: object, out: Path, model: StoredModel, **variables: object) -> pandas.DataFrame:
    """Score a source on the command line and return its rows without ids."""
    scored = run("score", source, "--out", out, "--model", model.tag, "--local", **variables)
    assert scored.returncode == 0, scored.stderr
    return pandas.read_parquet(out).drop(columns="id")


@pytest.fixture(scope="module")
def rows(
    folder: Path, digits_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> pandas.DataFrame:
    """Score the images as a local file; all files of the site contain the same images."""
    return rows_of(folder / "images.npy", tmp_path_factory.mktemp("local") / "out", digits_model)


@pytest.mark.parametrize(
    "name",
    ["images.npy", "images.zip", "list.csv", "arrays.npz", "pixels.csv", "images.tar.xz"],
)
def test_file_over_https_is_scored_like_a_local_file(
    name: str,
    rows: pandas.DataFrame,
    site: tuple[str, Path],
    digits_model: StoredModel,
    tmp_path: Path,
) -> None:
    url, certificate = site
    found = rows_of(
        f"{url}/{name}",
        tmp_path / "out",
        digits_model,
        LOUPE_HTTPS_SOURCES="true",
        LOUPE_HTTPS_PRIVATE_ADDRESSES="true",
        SSL_CERT_FILE=certificate,
    )

    assert len(found) == 30
    pandas.testing.assert_frame_equal(found, rows)


@pytest.mark.parametrize(
    ("name", "trusted", "message"),
    [
        ("images.npy", False, "storage_unavailable: .*certificate verify failed"),
        (f"{tls_server.FORBIDDEN[1:]}/images.npy", True, "storage_refused: .*403"),
        ("nothing.npy", True, "invalid_source: .*no such file"),
    ],
    ids=["untrusted certificate", "forbidden file", "missing file"],
)
def test_unreadable_url_is_an_error_with_its_reason(
    name: str,
    trusted: bool,
    message: str,
    site: tuple[str, Path],
    digits_model: StoredModel,
    tmp_path: Path,
) -> None:
    url, certificate = site
    trust = {"SSL_CERT_FILE": certificate} if trusted else {}
    scored = run(
        *(
            "score",
            f"{url}/{name}",
            "--out",
            tmp_path / "out",
            "--model",
            digits_model.tag,
            "--local",
        ),
        LOUPE_HTTPS_SOURCES="true",
        LOUPE_HTTPS_PRIVATE_ADDRESSES="true",
        **trust,
    )

    assert scored.returncode == 1
    assert f"{url}/{name}" in scored.stderr
    assert re.search(message, scored.stderr, re.IGNORECASE)
