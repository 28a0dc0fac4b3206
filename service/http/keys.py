"""API keys and their roles. The service knows only the SHA-256 of each key."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, TypeAlias, get_args

from loupe.errors import Forbidden, InvalidSetting, InvalidUsage, Unauthorized
from loupe.settings import Settings

HASHED = "sha256:"
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
DIGEST = re.compile(r"[0-9a-f]{64}")
MIN_KEY_LENGTH = 16  # characters; shorter keys can be guessed
Right: TypeAlias = Literal["predict", "jobs", "review", "promote"]
Rights: TypeAlias = frozenset[Right]


class Role(StrEnum):
    """A role of a key; see `RIGHTS`."""

    PREDICT = "predict"
    JOBS = "jobs"
    ADMIN = "admin"


RIGHTS: Final[Mapping[Role, Rights]] = {
    Role.PREDICT: frozenset({"predict"}),
    Role.JOBS: frozenset({"jobs"}),
    Role.ADMIN: frozenset(get_args(Right)),
}
"""What a key with a role may do. A key without a role may predict and score."""
DEFAULT_ROLES = (Role.PREDICT, Role.JOBS)
KEYLESS_RIGHTS: Final[Rights] = frozenset({"predict", "jobs", "review"})
"""What everybody may do at a service without keys: all but change what it serves."""
EXPECTED = (
    f"NAME:KEY with a key of at least {MIN_KEY_LENGTH} characters, "
    f"or NAME:{HASHED}DIGEST as `loupe key NAME` prints it. Roles follow the name: "
    f"NAME/ROLE+ROLE, with {', '.join(Role)}"
)


@dataclass(frozen=True)
class Keys:
    """The SHA-256, in hex, of each client's key, and what it may do, by the client's name."""

    digests: dict[str, str]
    rights: dict[str, Rights]

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


def check_right(right: Right, rights: Rights, client: str | None) -> None:
    """Raise `Forbidden` if a client may not do something; `client` is the name of its key."""
    if right in rights:
        return
    role = next(role for role, given in RIGHTS.items() if right in given)
    have = "this service has no keys" if client is None else f"'{client}' does not have it"
    raise Forbidden(
        f"This needs an API key with the role '{role}', and {have}. "
        f"Make one: loupe key NAME --role {role}",
        code="role_needed",
    )


def new_key(name: str, roles: Iterable[Role] = ()) -> tuple[str, str]:
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
    given = "+".join(dict.fromkeys(roles))
    return key, f"{name}{given and f'/{given}'}:{HASHED}{digest_of(key)}"


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
    keys = Keys({}, {})
    if settings.api_keys is not None:
        _add("LOUPE_API_KEYS", settings.api_keys.get_secret_value().split(","), keys)
    if settings.api_keys_file is not None:
        try:
            lines = settings.api_keys_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSetting(
                f"LOUPE_API_KEYS_FILE: '{settings.api_keys_file}' cannot be read ({error})."
            ) from error
        entries = (line for line in lines if not line.lstrip().startswith("#"))
        _add("LOUPE_API_KEYS_FILE", entries, keys)
    return keys


def _add(variable: str, entries: Iterable[str], keys: Keys) -> None:
    """Add entries to `keys`. Errors do not show keys."""
    for number, entry in enumerate(entries, 1):
        if not entry.strip():
            continue
        head, _, key = entry.strip().partition(":")
        name, has_roles, given = head.partition("/")
        roles = given.split("+") if has_roles else DEFAULT_ROLES
        digest = key.removeprefix(HASHED).lower() if key.startswith(HASHED) else digest_of(key)
        is_valid = NAME.fullmatch(name) and len(key) >= MIN_KEY_LENGTH and DIGEST.fullmatch(digest)
        if not is_valid or not {*RIGHTS}.issuperset(roles):
            raise InvalidSetting(f"{variable}: entry {number} is not {EXPECTED}.")
        if name in keys.digests:
            raise InvalidSetting(f"{variable}: entry {number} repeats the name '{name}'.")
        keys.digests[name] = digest
        keys.rights[name] = frozenset().union(*(RIGHTS[Role(role)] for role in roles))
