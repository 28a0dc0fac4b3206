"""The commands of the service: `loupe serve` and `loupe key`."""

from typing import Annotated

import typer

from loupe.settings import override_settings
from loupe.terminal import console


def serve(
    model: Annotated[
        str | None, typer.Option(help="Model that answers when a request names none.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Serve the models in the store over HTTP."""
    settings = override_settings(model=model, host=host, port=port)
    from service.server import serve as run

    run(settings)


def key(
    name: Annotated[
        str, typer.Argument(help="Of whoever is to have it; it stands in log and metrics.")
    ],
) -> None:
    """Make an API key for somebody who may call the service."""
    from service.http.keys import new_key

    made = new_key(name)
    console.print(
        f"[bold]key[/]    {made.key}\n         for {name}; it is not kept anywhere", highlight=False
    )
    console.print(
        f"[bold]entry[/]  {made.entry}\n         for LOUPE_API_KEYS, or the file that LOUPE_API_KEYS_FILE names",
        highlight=False,
    )
