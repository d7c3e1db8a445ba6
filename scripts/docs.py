"""Writes docs/reference from the code: configuration, documents with their JSON schemas, commands. A test compares them."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, Python looks for modules beside this file only

from meshagent.cli.main import cli  # noqa: E402 - after the path is set
from meshagent.config import AgentConfig, setting_keys  # noqa: E402
from meshagent.config.authority import AuthorityConfig  # noqa: E402
from meshagent.model.kinds import KINDS  # noqa: E402
from meshagent.model.names import Model, format_duration  # noqa: E402
from meshagent.model.reasons import APP_ERROR, FINER, FLAG_WORDS, REASONS  # noqa: E402
from meshagent.model.service import ServiceDefinition  # noqa: E402
from meshagent.translate.replies import TOLD  # noqa: E402

FOLDER = ROOT / "docs" / "reference"
MADE = "<!-- Made by `make docs` from the code: a change here is overwritten. -->\n"
SCHEMAS: Mapping[str, type[Model]] = {**KINDS, "service-definition": ServiceDefinition}
_DURATION = r"^[0-9]+(\.[0-9]+)?(ms|s|m|h)$"
_ISO = TypeAdapter(timedelta)
_SAID_BY = {
    "caller": "the caller",
    "outside": "the caller of an [external](../externals.md)",
    "destination": "the destination",
    "both": "either",
}
_ALL_MODES = 0o777
_WIDTH = 110


def pages() -> dict[Path, str]:
    """Every generated file and what it has to hold."""
    found = {
        FOLDER / "configuration.md": configuration_page(),
        FOLDER / "documents.md": documents_page(),
        FOLDER / "commands.md": commands_page(),
        FOLDER / "reasons.md": reasons_page(),
    }
    for name in SCHEMAS:
        text = json.dumps(schema(name), indent=2, sort_keys=True, ensure_ascii=False)
        found[FOLDER / "schema" / f"{name}.json"] = text + "\n"
    return found


def schema(name: str) -> dict[str, Any]:
    """The JSON schema of a kind of document, as editors take it."""
    whole = SCHEMAS[name].model_json_schema()
    for part in (whole, *whole.get("$defs", {}).values()):
        for each in part.get("properties", {}).values():
            if each.get("pattern") == _DURATION and "default" in each:  # pydantic writes it as PT5S
                each["default"] = format_duration(_ISO.validate_python(each["default"]))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}


# --- configuration


def configuration_page() -> str:
    """Every key of agent.yaml and of authority.yaml."""
    lines = [
        MADE,
        "# Configuration keys\n",
        "What they mean together, and where they are looked for, is in [configuration](../configuration.md).\n",
        "| key | environment | default | meaning |",
        "|---|---|---|---|",
    ]
    settable = setting_keys()
    for key, field in _settings(AgentConfig):
        variable = f"`MESHAGENT_{key.replace('.', '_').upper()}`" if key in settable else ""
        lines.append(f"| `{key}` | {variable} | {_default(field)} | {_cell(field.description or '')} |")
    return "\n".join([*lines, *_authority_keys()]) + "\n"


def _authority_keys() -> list[str]:
    return [
        "\n# Keys of authority.yaml\n",
        "What they mean together is in [the signing authority](../authority.md). No environment variable sets them.\n",
        "| key | default | meaning |",
        "|---|---|---|",
        *(
            f"| `{key}` | {_default(field)} | {_cell(field.description or '')} |"
            for key, field in _settings(AuthorityConfig)
        ),
    ]


def _settings(model: type[Model], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Model):
            yield from _settings(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _default(field: FieldInfo) -> str:
    """The value that holds everywhere; empty where it depends on the machine (its description then says on what)."""
    value = field.default
    if "Default:" in (field.description or "") or value in ("", (), Path()):
        return ""
    return f"`{format_duration(value) if isinstance(value, timedelta) else value}`"


# --- reasons


def reasons_page() -> str:
    """Every code of why a call failed."""
    lines = [
        MADE,
        "# Why a call failed: the codes\n",
        "Where they are said, and how to go from one to its cause, is in [access logs](../access-logs.md).\n",
        "`x-mesh-refused` is what the caller is told; the log and `meshagent explain` tell the code. Flags are Envoy's.\n",
        "| code | `x-mesh-refused` | said by the proxy of | means | Envoy's flags | next step |",
        "|---|---|---|---|---|---|",
    ]
    for each in (*REASONS, APP_ERROR, *FINER):
        told = f"`{each.header}`" if each.header in TOLD else ""
        flags = " ".join(f"`{flag}`" for flag in each.flags)
        row = (f"`{each.code}`", told, _SAID_BY[each.where], each.words, flags, _cell(each.next_step))
        lines.append(f"| {' | '.join(row)} |")
    lines += ["\n## Response flags in words\n", "| flag | words |", "|---|---|"]
    lines += [f"| `{flag}` | {words} |" for flag, words in sorted(FLAG_WORDS.items())]
    return "\n".join(lines) + "\n"


# --- documents


def documents_page() -> str:
    """Every kind of document and the service definition, field by field."""
    lines = [
        MADE,
        "# Documents, field by field\n",
        "How to write them is in [policy](../policy.md) and [services](../services.md).\n",
        "For editors there is a JSON schema of each; meshagent itself checks more than a schema can say.\n",
    ]
    for name in SCHEMAS:
        lines.append(f"## {name}\n\nJSON schema: [schema/{name}.json](schema/{name}.json).\n")
        whole = schema(name)
        lines += _fields(whole)
        for part, inner in sorted(whole.get("$defs", {}).items()):
            lines += [f"### {part} (in {name})\n", *_fields(inner)]
    return "\n".join(lines)


def _fields(part: dict[str, Any]) -> list[str]:
    required = part.get("required", [])
    rows = [
        f"| `{name}` | {_type(each)} | {'needed' if name in required else _shown_default(each)} |"
        for name, each in sorted(part.get("properties", {}).items(), key=lambda item: item[0] not in ("kind", "name"))
    ]
    return [_sentence(part.get("description", "")), "| field | is | default |", "|---|---|---|", *rows, ""]


def _type(each: dict[str, Any]) -> str:
    """A JSON schema as a few words."""
    if "$ref" in each:
        return str(each["$ref"]).rpartition("/")[2]
    if "anyOf" in each:
        return " or ".join(_type(one) for one in each["anyOf"] if one.get("type") != "null")
    if "const" in each or "enum" in each:
        return " or ".join(f"`{_json(value)}`" for value in each.get("enum", [each.get("const")]))
    if each.get("type") == "array":
        return f"list of {_type(each['items'])}"
    if each.get("type") == "object":
        return f"texts by name, at most {each['maxProperties']}" if "maxProperties" in each else "texts by name"
    return _scalar(each)


def _scalar(each: dict[str, Any]) -> str:
    if each.get("maximum") == _ALL_MODES:
        return "file mode such as 0o660"
    if each.get("type") == "integer":
        return f"number {each['minimum']} to {each['maximum']}"
    if each.get("type") == "boolean":
        return "`true` or `false`"
    if each.get("pattern") == _DURATION:
        return "duration"
    return "time with zone" if each.get("format") == "date-time" else "text"


def _shown_default(each: dict[str, Any]) -> str:
    value = each.get("default")
    if each.get("maximum") == _ALL_MODES:
        return f"`0o{value:o}`"
    return "" if isinstance(value, dict) or value in (None, [], "") else f"`{_json(value)}`"


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# --- commands


def commands_page() -> str:
    """Every command and what it takes."""
    lines = [
        MADE,
        "# Commands\n",
        "What they have in common, exit codes and where they ask, is in [commands](../commands.md).\n",
    ]
    for words, command, context in commands():
        lines += [f"## {words}\n", *_help(command), f"```\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n"]
        rows = [row for each in command.get_params(context) if (row := each.get_help_record(context)) and row[1]]
        if rows:
            lines += ["| option | meaning |", "|---|---|"]
            lines += [f"| `{_cell(left)}` | {_cell(right)} |" for left, right in rows]
            lines.append("")
    return "\n".join(lines)


def commands() -> Iterator[tuple[str, click.Command, click.Context]]:
    """(the words to type, the command, its context) of every command, groups before what is in them."""
    yield from _commands(
        cli, click.Context(cli, info_name="meshagent", **{**cli.context_settings, "terminal_width": _WIDTH})
    )


def _commands(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command, click.Context]]:
    yield context.command_path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner and not inner.hidden:
                below = click.Context(inner, info_name=name, parent=context, terminal_width=_WIDTH)
                yield from _commands(inner, below)


def _help(command: click.Command) -> list[str]:
    """The help text, its example in a block of its own."""
    paragraphs = inspect.cleandoc(command.help or "").replace("\b\n", "").split("\n\n")
    lines: list[str] = []
    for paragraph in paragraphs:
        if paragraph.startswith("Example:"):
            lines.append(f"```\n{paragraph.removeprefix('Example:').strip()}\n```\n")
        else:
            lines.append(paragraph + "\n")
    return lines


def _sentence(text: str) -> str:
    return f"{' '.join(text.split())}\n"


def _cell(text: str) -> str:
    """Text for one cell of a table; a `*` or `<` in it is no markup."""
    escaped = " ".join(text.split()).replace("|", "\\|")
    return escaped.replace("<", "&lt;").replace("(*", "(\\*")


def main() -> None:
    """Write every page, and take away what is no longer made."""
    wanted = pages()
    for path in (set(FOLDER.rglob("*.md")) | set(FOLDER.rglob("*.json"))) - set(wanted):
        path.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    sys.stdout.write(f"docs: {len(wanted)} files in {FOLDER.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
