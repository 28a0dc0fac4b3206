"""Pages of the documentation that are written from the code, so that they cannot differ from it."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import typer

from loupe.cli.main import root
from service.web.document import document

METHODS = ("get", "post", "put", "delete")


def command_line() -> str:
    """Return a page with every command, its arguments and its options."""
    intro = "# The command line\n\nWritten from the program: `COMMAND --help` says the same.\n"
    group = root()
    return "\n".join([intro, *_describe_command(group, typer.Context(group, info_name="loupe"))])


def _describe_command(command: Any, context: Any) -> Iterator[str]:
    yield f"## {context.command_path}\n"
    yield f"```text\n{' '.join(command.get_usage(context).split()[1:])}\n```\n"
    yield f"{command.help or ''}\n"
    records = [each.get_help_record(context) for each in command.get_params(context)]
    if rows := [record for record in records if record and "--help" not in record[0]]:
        yield "| argument or option | meaning |\n|---|---|"
        yield from (f"| <code>{_cell(name)}</code> | {_cell(text)} |" for name, text in rows)
        yield ""
    if command.epilog:
        yield f"```text\n{command.epilog}\n```\n"
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            each = command.get_command(context, name)
            inner = typer.Context(each, info_name=name, parent=context)
            yield from _describe_command(each, inner)


def http_api() -> str:
    """Return a page with every route of the OpenAPI document."""
    content = json.loads(document())
    lines = ["# Every route\n", content["info"]["description"]]
    for tag in content["tags"]:
        lines += [f"## {tag['name']}\n", f"{tag['description']}\n"]
        for path, item in content["paths"].items():
            for method in METHODS:
                if tag["name"] in item.get(method, {}).get("tags", ()):
                    lines.append(f"### {method.upper()} {path}\n")
                    shared = item.get("parameters", [])
                    lines += _describe_route(item[method], shared, content)
    return "\n".join(lines)


def _describe_route(
    route: Mapping[str, Any], shared: list[Any], content: Mapping[str, Any]
) -> Iterator[str]:
    yield f"{route['summary']}\n"
    yield f"{route.get('description', '')}\n"
    if parameters := [_resolve(each, content) for each in (*shared, *route.get("parameters", ()))]:
        yield "| parameter | in | meaning |\n|---|---|---|"
        for each in parameters:
            yield f"| `{each['name']}` | {each['in']} | {_cell(each.get('description', ''))} |"
        yield ""
    if "requestBody" in route:
        body = _resolve(route["requestBody"], content)
        yield f"Body: {', '.join(f'`{kind}`' for kind in body['content'])}\n"
    yield "| status | answer |\n|---|---|"
    for status, reference in route["responses"].items():
        answer = _resolve(reference, content)
        codes = ", ".join(f"`{code}`" for code in _codes(answer))
        yield f"| {status} | {codes or _cell(answer['description'])} |"
    yield ""


def _codes(answer: Mapping[str, Any]) -> list[str]:
    """Return the error codes of an answer, or none."""
    schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
    codes: list[str] = schema.get("properties", {}).get("code", {}).get("enum", [])
    return codes


def _resolve(value: Mapping[str, Any], content: Mapping[str, Any]) -> Any:
    """Follow a reference within the document."""
    found: Any = value
    while "$ref" in found:
        target: Any = content
        for key in found["$ref"].removeprefix("#/").split("/"):
            target = target[key]
        found = target
    return found


def _cell(text: str) -> str:
    """Return text as a cell of a table."""
    return " ".join(escape(text, quote=False).replace("|", "&#124;").split())
