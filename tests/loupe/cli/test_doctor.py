"""`loupe doctor`: what it checks, and its exit code."""

import socket
from importlib import metadata
from pathlib import Path

import pytest

from loupe.cli import doctor
from loupe.models.store import StoredModel
from tests.support.command import Loupe
from tests.support.programs import free_port
from tests.support.stores import copied, damage


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOUPE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LOUPE_PORT", str(free_port()))


def test_whole_installation_has_nothing_wrong(loupe: Loupe) -> None:
    ended = loupe("doctor")

    assert (ended.code, ended.err) == (0, "")
    assert {line.split()[0] for line in ended.out.splitlines()} == {"ok"}
    for name in (*doctor.CHECKS, "train", "worker"):
        assert f" {name} " in ended.out


@pytest.mark.parametrize(
    ("variable", "value", "name"),
    [
        ("LOUPE_REDIS_URL", "redis://127.0.0.1:1/0", "Redis"),
        ("LOUPE_DATA_DIR", "/proc/loupe", "data"),
        ("LOUPE_HOST", "192.0.2.1", "port"),
    ],
)
def test_unusable_setting_is_wrong(
    variable: str, value: str, name: str, loupe: Loupe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    ended = loupe("doctor")

    assert ended.code == 1
    wrong = [line for line in ended.out.splitlines() if line.startswith("wrong")]
    assert name in [line.split()[1] for line in wrong]
    assert variable in ended.out


def test_damaged_model_is_wrong(loupe: Loupe, store: Path, digits_model: StoredModel) -> None:
    model = copied(digits_model, store)
    damage(model.folder / "model.onnx")
    ended = loupe("doctor")

    assert ended.code == 1
    assert model.tag in ended.out


def test_port_of_another_program_is_wrong(loupe: Loupe, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("LOUPE_PORT", str(taken.getsockname()[1]))
        assert loupe("doctor").code == 1


def test_missing_extra_is_named_but_not_wrong(
    loupe: Loupe, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["bentoml>=1.4", "keras>=3; extra == 'train'", "keras>=3; extra == 'all'"]
    monkeypatch.setattr(metadata, "requires", lambda name: [*lines, "no-such; extra == 's3'"])
    ended = loupe("doctor")

    assert ended.code == 0
    assert "missing: no-such" in ended.out
    assert [line.split()[1] for line in ended.out.splitlines()][-2:] == ["train", "s3"]
