"""`python -m tests.documentation`: list the documented commands by the test that runs them."""

import sys

from tests.documentation.places import NOWHERE, PLACES, all_commands, commands_at


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main() -> None:
    """Print each place with its commands."""
    _print(f"{len(all_commands())} commands")
    for place in PLACES:
        found = commands_at(place)
        _print(f"\n{len(found)}: {place.make}  {place.test}")
        for command in found:
            reason = NOWHERE.get(command.text)
            text = " ".join(command.text.split())
            _print(f"  {command.page}: {text}" + (f"  ({reason})" if reason else ""))


if __name__ == "__main__":
    main()
