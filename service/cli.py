"""The commands `loupe serve` and `loupe key`."""

from typing import Annotated

import typer

from loupe.logs import log_everything
from loupe.settings import override_settings
from loupe.terminal import console, styled
from service.http.keys import Role


def serve(
    model: Annotated[
        str | None,
        typer.Option(help="Model for requests that name none.", show_default="LOUPE_MODEL"),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="LOUPE_HOST, 127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on.", show_default="LOUPE_PORT, 3000")
    ] = None,
    processes: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Processes that share the port; auto for one per core.",
            show_default="LOUPE_PROCESSES, 1",
        ),
    ] = None,
    root_path: Annotated[
        str | None,
        typer.Option(help="Path under which a proxy serves it.", show_default="LOUPE_ROOT_PATH"),
    ] = None,
) -> None:
    """Serve the models in the store over HTTP."""
    settings = override_settings(
        model=model, host=host, port=port, processes=processes, root_path=root_path
    )
    if settings.log_format == "json":
        log_everything()  # before libraries that print when they are imported
    from service.server import serve as run

    run(settings)


def key(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the client, for logs and metrics.")
    ],
    role: Annotated[
        list[Role] | None,
        typer.Option(help="What the client may do; repeatable. All but `admin` by default."),
    ] = None,
) -> None:
    """Make an API key for a client of the service."""
    from service.http.keys import new_key

    made, entry = new_key(name, role or ())
    console.print(styled(("key", "bold"), f"    {made}"))
    console.print(f"         Give it to {name}. It is not stored anywhere.")
    console.print(styled(("entry", "bold"), f"  {entry}"))
    console.print("         Add it to LOUPE_API_KEYS, or to the file in LOUPE_API_KEYS_FILE.")
