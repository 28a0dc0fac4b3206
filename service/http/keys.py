"""API keys: who may call, known by the SHA-256 of their keys."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loupe.errors import InvalidSetting
from loupe.old_errors.service import InvalidKeyName, Unauthorized
from loupe.settings import Settings

HASHED = "sha256:"
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
DIGEST = re.compile(r"[0-9a-f]{64}")
SHORTEST = 16  # characters; what is shorter can be guessed
EXPECTED = f"NAME:KEY with a key of at least {SHORTEST} characters, or NAME:{HASHED}DIGEST as `loupe key NAME` prints it"


@dataclass(frozen=True)
class Keys:
    """The SHA-256, in hex, of each caller's key, by the caller's name."""

    digests: dict[str, str]

    def name_of(self, key: str) -> str | None:
        """Whose key it is, if anybody's. How long that takes tells nothing of the keys."""
        digest = digest_of(key)
        found = None
        for name, known in self.digests.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def name_in(self, headers: Mapping[str, str]) -> str:
        """Whose key headers carry, as `Authorization: Bearer KEY` or `X-API-Key: KEY`.

        Args:
            headers: Of a request, by their names in small letters.

        Raises:
            Unauthorized: If it is nobody's.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        name = self.name_of(given)
        if name is None:
            raise Unauthorized(given != "")
        return name


@dataclass(frozen=True)
class NewKey:
    """A key for its caller, and the entry by which the service knows it."""

    key: str
    entry: str


def new_key(name: str) -> NewKey:
    """A random key.

    Raises:
        InvalidKeyName: If a caller cannot be called so.
    """
    if not NAME.fullmatch(name):
        raise InvalidKeyName(name)
    key = secrets.token_urlsafe(24)
    return NewKey(key, f"{name}:{HASHED}{digest_of(key)}")


def digest_of(key: str) -> str:
    """SHA-256 of a key, in hex."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(settings: Settings) -> Keys | None:
    """The keys in `LOUPE_API_KEYS` and `LOUPE_API_KEYS_FILE`; nothing if neither is set, and everybody may call.

    Raises:
        InvalidSetting: If an entry is none, a name stands twice, or the file cannot be read.
    """
    digests: dict[str, str] = {}
    if settings.api_keys is not None:
        _add("LOUPE_API_KEYS", settings.api_keys.get_secret_value().split(","), digests)
    if settings.api_keys_file is not None:
        try:
            lines = settings.api_keys_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSetting(
                f"LOUPE_API_KEYS_FILE: '{settings.api_keys_file}' cannot be read ({error})."
            ) from error
        _add(
            "LOUPE_API_KEYS_FILE",
            (line for line in lines if not line.lstrip().startswith("#")),
            digests,
        )
    return Keys(digests) if settings.needs_keys else None


def _add(variable: str, entries: Iterable[str], digests: dict[str, str]) -> None:
    """Add entries to the digests; an error never shows a key."""
    for number, entry in enumerate(entries, 1):
        if not entry.strip():
            continue
        name, _, key = entry.strip().partition(":")
        digest = key.removeprefix(HASHED).lower() if key.startswith(HASHED) else digest_of(key)
        if not NAME.fullmatch(name) or len(key) < SHORTEST or not DIGEST.fullmatch(digest):
            raise InvalidSetting(f"{variable}: entry {number} is not {EXPECTED}.")
        if name in digests:
            raise InvalidSetting(f"{variable}: entry {number} repeats the name '{name}'.")
        digests[name] = digest
