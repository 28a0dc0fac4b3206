"""API keys. The service knows only the SHA-256 of each."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loupe.errors import InvalidSetting, InvalidUsage, Unauthorized
from loupe.settings import Settings

HASHED = "sha256:"
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
DIGEST = re.compile(r"[0-9a-f]{64}")
MIN_KEY_LENGTH = 16  # characters; shorter keys can be guessed
EXPECTED = (
    f"NAME:KEY with a key of at least {MIN_KEY_LENGTH} characters, "
    f"or NAME:{HASHED}DIGEST as `loupe key NAME` prints it"
)


@dataclass(frozen=True)
class Keys:
    """The SHA-256, in hex, of each client's key, by the client's name."""

    digests: dict[str, str]

    def name_of(self, key: str) -> str | None:
        """Return the name of the client with this key, in constant time."""
        digest = digest_of(key)
        found = None
        for name, known in self.digests.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def name_in(self, headers: Mapping[str, str]) -> str:
        """Return the name of the client whose key is in the headers.

        Args:
            headers: Headers by lower-case name; the key is in `authorization` or `x-api-key`.

        Raises:
            Unauthorized: If the key is missing or unknown.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        name = self.name_of(given)
        if name is None:
            problem = "is unknown" if given else "is missing"
            raise Unauthorized(
                f"The API key {problem}. Send it as 'Authorization: Bearer KEY' or "
                "'X-API-Key: KEY'."
            )
        return name


def new_key(name: str) -> tuple[str, str]:
    """Make a random key for a client; return it, and the entry by which the service knows it.

    Raises:
        InvalidUsage: If the name is invalid.
    """
    if not NAME.fullmatch(name):
        raise InvalidUsage(
            "The name of a key has 1 to 64 letters, digits, dots, hyphens and underscores, "
            f"got {name!r}.",
            code="invalid_key_name",
        )
    key = secrets.token_urlsafe(24)
    return key, f"{name}:{HASHED}{digest_of(key)}"


def digest_of(key: str) -> str:
    """Return the SHA-256 of a key, in hex."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(settings: Settings) -> Keys | None:
    """Read `LOUPE_API_KEYS` and `LOUPE_API_KEYS_FILE`; return `None` if neither is set.

    Raises:
        InvalidSetting: If an entry is invalid, a name repeated, or the file unreadable.
    """
    if not settings.needs_keys:
        return None
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
        entries = (line for line in lines if not line.lstrip().startswith("#"))
        _add("LOUPE_API_KEYS_FILE", entries, digests)
    return Keys(digests)


def _add(variable: str, entries: Iterable[str], digests: dict[str, str]) -> None:
    """Add entries to `digests`. Errors do not show keys."""
    for number, entry in enumerate(entries, 1):
        if not entry.strip():
            continue
        name, _, key = entry.strip().partition(":")
        digest = key.removeprefix(HASHED).lower() if key.startswith(HASHED) else digest_of(key)
        is_valid = NAME.fullmatch(name) and len(key) >= MIN_KEY_LENGTH and DIGEST.fullmatch(digest)
        if not is_valid:
            raise InvalidSetting(f"{variable}: entry {number} is not {EXPECTED}.")
        if name in digests:
            raise InvalidSetting(f"{variable}: entry {number} repeats the name '{name}'.")
        digests[name] = digest
