"""API keys: whose they are, and entries that are none."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from loupe.errors import InvalidSetting
from loupe.old_errors.service import InvalidKeyName
from loupe.settings import Settings
from service.http.keys import digest_of, new_key, read_keys

KEY = "a-key-of-some-length"


def test_without_keys_everybody_may_call() -> None:
    assert read_keys(Settings()) is None


def test_a_key_is_known_by_its_text_or_by_its_digest(tmp_path: Path) -> None:
    made = new_key("carol")
    file = tmp_path / "keys"
    file.write_text(f"# who may call\n\n{made.entry}\n")
    settings = Settings(
        api_keys=SecretStr(f"alice:{KEY}, bob:sha256:{digest_of('bobs-own-secret-key')}"),
        api_keys_file=file,
    )
    keys = read_keys(settings)

    assert keys is not None
    assert [keys.name_of(key) for key in (KEY, "bobs-own-secret-key", made.key)] == [
        "alice",
        "bob",
        "carol",
    ]
    assert [keys.name_of(key) for key in ("", "alice", KEY + " ", digest_of(KEY), "\udcff")] == [
        None
    ] * 5


def test_an_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "keys").touch()
    keys = read_keys(Settings(api_keys_file=tmp_path / "keys"))

    assert keys is not None
    assert keys.name_of("") is None


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        (
            "secret-without-a-name",
            "entry 1 is not NAME:KEY with a key of at least 16 characters",
        ),
        (f"alice:{KEY},bob:short", "entry 2 is not NAME:KEY"),
        ("alice:sha256:1234567890123456", "entry 1 is not NAME:KEY"),
        (f"al ice:{KEY}", "entry 1 is not NAME:KEY"),
        (f"alice:{KEY},alice:{KEY}", "entry 2 repeats the name 'alice'"),
    ],
)
def test_an_entry_that_is_none_is_told_without_its_secret(entries: str, problem: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        read_keys(Settings(api_keys=SecretStr(entries)))

    assert problem in refused.value.message
    assert not any(
        secret in refused.value.message for secret in (KEY, "secret-without", "short", "1234567")
    )


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"LOUPE_API_KEYS_FILE: '.*nowhere' cannot be read"):
        read_keys(Settings(api_keys_file=tmp_path / "nowhere"))


def test_new_keys_differ_and_have_names_that_a_log_can_hold() -> None:
    assert new_key("alice").key != new_key("alice").key
    with pytest.raises(InvalidKeyName, match="Expected a name of 1 to 64 letters"):
        new_key("a\nb")
