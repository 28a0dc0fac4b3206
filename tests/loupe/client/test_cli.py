"""`loupe predict` without a service, or with wrong usage."""

from pathlib import Path

import pytest

from tests.support import pictures
from tests.support.command import Loupe
from tests.support.programs import free_port


def test_unreachable_service_is_reported_in_one_line(
    loupe: Loupe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port = free_port()
    monkeypatch.setenv("LOUPE_PORT", str(port))
    (tmp_path / "boot.png").write_bytes(pictures.png(pictures.digits(1)[0]))
    ended = loupe("predict", tmp_path / "boot.png", "--api-key", "secret")

    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.startswith("error: service_unreachable: ")
    assert f"http://127.0.0.1:{port}" in ended.err
    assert "loupe serve" in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param([], "Missing argument", id="no file"),
        pytest.param(["boot.png", "--top-k", "0"], "'--top-k'", id="no class"),
        pytest.param(["boot.png", "--threshold", "2"], "'--threshold'", id="more than sure"),
        pytest.param(
            ["boot.png", "--url", "localhost:3000"], "error: invalid_address: ", id="no address"
        ),
        pytest.param(
            ["boot.png", "--api-key", "two words"], "error: invalid_api_key: ", id="no key"
        ),
    ],
)
def test_wrong_usage_exits_with_code_2(loupe: Loupe, arguments: list[str], text: str) -> None:
    ended = loupe("predict", *arguments)

    assert ended.code == 2
    assert text in ended.err
