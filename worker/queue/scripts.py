"""Load the Lua scripts that change the queue."""

from pathlib import Path

from redis import Redis
from redis.commands.core import Script

FOLDER = Path(__file__).parent / "lua"


def load_script(redis: Redis, name: str, *, fenced: bool = False) -> Script:
    """Return the script `lua/<name>.lua`, after `keys.lua` and, if it is fenced, `fence.lua`."""
    parts = ["keys", "fence", name] if fenced else ["keys", name]
    return redis.register_script("\n".join((FOLDER / f"{part}.lua").read_text() for part in parts))
