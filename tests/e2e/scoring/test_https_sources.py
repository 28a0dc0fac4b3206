"""Sources that a web server gives over TLS, scored by the command line."""

import csv
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas
import pytest

from loupe.models.store import StoredModel
from tests.support import pictures, tls_server
from tests.support.programs import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An array, an archive, and a manifest that names pictures one by one, of the same images."""
    folder = tmp_path_factory.mktemp("site")
    images = pictures.digits(30)
    np.save(folder / "images.npy", images)
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
    return folder


@pytest.fixture(scope="module")
def site(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """URL of the folder, and the certificate of its server."""
    with tls_server.serving(folder, tmp_path_factory.mktemp("tls")) as served:
        yield served


@pytest.mark.parametrize("name", ["images.npy", "images.zip", "list.csv"])
def test_a_file_over_https_is_scored_as_the_same_file_here(
    name: str, folder: Path, site: tuple[str, Path], digits_model: StoredModel, tmp_path: Path
) -> None:
    url, certificate = site
    rows = []
    for place, source in (("there", f"{url}/{name}"), ("here", folder / name)):
        scored = run(
            *("score", source, "--out", tmp_path / place, "--model", digits_model.tag, "--local"),
            LOUPE_HTTPS_SOURCES="true",
            SSL_CERT_FILE=certificate,
        )
        assert scored.returncode == 0, scored.stderr
        rows.append(pandas.read_parquet(tmp_path / place))

    assert len(rows[0]) == 30
    pandas.testing.assert_frame_equal(rows[0].drop(columns="id"), rows[1].drop(columns="id"))


@pytest.mark.parametrize(
    ("name", "trusted", "said"),
    [
        ("images.npy", False, "storage_unavailable: .*certificate verify failed"),
        (f"{tls_server.FORBIDDEN[1:]}/images.npy", True, "storage_refused: .*403"),
        ("nothing.npy", True, "invalid_source: .*no such file"),
    ],
    ids=["a certificate that nobody vouches for", "a file for others", "no file"],
)
def test_a_file_that_cannot_be_had_is_an_error_that_says_why(
    name: str,
    trusted: bool,
    said: str,
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
        **trust,
    )

    assert scored.returncode == 1
    assert f"{url}/{name}" in scored.stderr
    assert re.search(said, scored.stderr, re.IGNORECASE)
