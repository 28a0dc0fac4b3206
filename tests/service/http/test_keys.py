"""API keys, and invalid entries."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from loupe.errors import InvalidSetting, InvalidUsage
from loupe.settings import Settings
from service.http.keys import Role, digest_of, new_key, read_keys

KEY = "a-key-of-some-length"


def test_no_keys_by_default() -> None:
    assert read_keys(Settings()) is None


def test_keys_are_found_by_text_or_digest(tmp_path: Path) -> None:
    made, entry = new_key("carol")
    file = tmp_path / "keys"
    file.write_text(f"# who may call\n\n{entry}\n")
    settings = Settings(
        api_keys=SecretStr(f"alice:{KEY}, bob:sha256:{digest_of('bobs-own-secret-key')}"),
        api_keys_file=file,
    )
    keys = read_keys(settings)

    assert keys is not None
    assert [keys.name_of(key) for key in (KEY, "bobs-own-secret-key", made)] == [
        "alice",
        "bob",
        "carol",
    ]
    assert [keys.name_of(key) for key in ("", "alice", KEY + " ", digest_of(KEY), "\udcff")] == [
        None
    ] * 5


def test_roles_follow_the_name() -> None:
    made, entry = new_key("ops", [Role.ADMIN])
    keys = read_keys(
        Settings(
            api_keys=SecretStr(f"web/predict:{KEY},batch/jobs+predict:{KEY}2,old:{KEY}3,{entry}")
        )
    )

    assert keys is not None
    assert keys.name_of(made) == "ops"
    assert keys.rights == {
        "web": {"predict"},
        "batch": {"predict", "jobs"},
        "old": {"predict", "jobs"},
        "ops": {"predict", "jobs", "review", "promote"},
    }


def test_empty_file_admits_nobody(tmp_path: Path) -> None:
    (tmp_path / "keys").touch()
    keys = read_keys(Settings(api_keys_file=tmp_path / "keys"))

    assert keys is not None
    assert keys.name_of("") is None


@pytest.mark.parametrize(
    ("entries", "fact"),
    [
        ("secret-without-a-name", "entry 1"),
        (f"alice:{KEY},bob:short", "entry 2"),
        ("alice:sha256:1234567890123456", "entry 1"),
        (f"al ice:{KEY}", "entry 1"),
        (f"alice/root:{KEY}", "entry 1"),
        (f"alice/:{KEY}", "entry 1"),
        (f"alice:{KEY},alice:{KEY}", "'alice'"),
    ],
)
def test_invalid_entry_is_reported_without_its_secret(entries: str, fact: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        read_keys(Settings(api_keys=SecretStr(entries)))

    assert fact in refused.value.message
    assert not any(
        secret in refused.value.message for secret in (KEY, "secret-without", "short", "1234567")
    )


def test_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"LOUPE_API_KEYS_FILE.*nowhere"):
        read_keys(Settings(api_keys_file=tmp_path / "nowhere"))


def test_new_keys_differ_and_have_printable_names() -> None:
    assert new_key("alice") != new_key("alice")
    with pytest.raises(InvalidUsage, match="1 to 64 letters"):
        new_key("a\nb")
