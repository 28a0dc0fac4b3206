"""`loupe models tune`: what it measures, recommends and writes."""

from pathlib import Path

import pytest

from loupe.cli import tuning
from loupe.cli.tuning import Speed, recommended
from loupe.models.store import StoredModel
from loupe.settings import load_settings
from tests.support.command import Loupe


@pytest.fixture(autouse=True)
def _briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "SECONDS", 0.0)


def test_written_settings_are_those_that_are_recommended(
    loupe: Loupe, digits_model: StoredModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "tuned.env"
    ended = loupe("models", "tune", digits_model.tag, "--out", out)

    assert ended.code == 0, ended.err
    lines = out.read_text().splitlines()
    assert digits_model.tag in lines[0]
    for line in lines[1:]:
        assert f"  {line}\n" in ended.out
        monkeypatch.setenv(*line.split("="))
    settings = load_settings()
    assert settings.engine == "onnx"
    assert settings.max_batch_size in tuning.RUN_SIZES
    assert f"{settings.threads}  " in ended.out


def test_large_images_run_in_small_batches(loupe: Loupe, colours_model: StoredModel) -> None:
    ended = loupe("models", "tune", colours_model.tag)

    assert ended.code == 0, ended.err
    assert " 56 " in ended.out  # images of 64 × 48 × 3 bytes in half a mebibyte
    assert " 128 " not in ended.out


def test_more_threads_and_larger_runs_must_pay() -> None:
    small, large, both = Speed(1, 32, 980), Speed(1, 512, 990), Speed(2, 32, 1000)

    assert recommended([large, both, small]) == small
    assert recommended([small, Speed(2, 8, 1500), Speed(2, 64, 1900)]).run_images == 64


def test_file_that_exists_is_kept(loupe: Loupe, tmp_path: Path) -> None:
    settings = tmp_path / ".env"
    settings.write_text("LOUPE_PORT=8080\n")

    assert "error: conflict: " in loupe("models", "tune", "--out", settings).err
    assert settings.read_text() == "LOUPE_PORT=8080\n"
    missing = loupe("models", "tune", "--out", tmp_path / "missing" / "env")
    assert "error: file_not_writable: " in missing.err
