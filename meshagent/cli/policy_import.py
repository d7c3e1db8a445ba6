"""`meshagent policy import`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from meshagent.cli.options import misuse
from meshagent.cli.output import emit, fail, say
from meshagent.documents.compose import MAX_BYTES
from meshagent.documents.encode import to_yaml
from meshagent.documents.files import file_text
from meshagent.documents.read import text_of
from meshagent.errors import InvalidDocument, Problem
from meshagent.importing.imported import MESHES, Imported, Mesh, import_policy

_ENDINGS = (".yaml", ".yml", ".json", ".hcl")
_NOTHING = 3  # exit code: as for documents that are all wrong


@click.command("import")
@click.option("--from", "origin", type=click.Choice(MESHES), required=True, help="Whose policy the files hold.")
@click.option(
    "--map",
    "mapped",
    multiple=True,
    metavar="FROM=TO",
    help="Which service here a name there means (a host, a principal or namespace/name); repeatable.",
)
@click.argument("files", nargs=-1, required=True, metavar="FILE|DIR|-...")
@click.pass_context
def import_(context: click.Context, origin: Mesh, mapped: tuple[str, ...], files: tuple[str, ...]) -> None:
    """Turn the policy of another mesh into documents, on stdout; on stderr, every field that has no place in them.

    Nothing is applied. An import never allows more than its source did. Exit code 3 when nothing could be imported.

    \b
    Example:  meshagent policy import --from istio bookinfo/ > bookinfo.yaml
    """
    found = import_policy(origin, _texts(files), _names(mapped))
    if found.documents:
        emit(to_yaml(found.documents).removesuffix("\n"))
    _report(found)
    if not found.taken or (found.problems and not found.documents):
        if found.problems:
            raise InvalidDocument(found.problems, next_step="nothing was imported")
        fail("nothing could be imported", "the report above says why of each object")
        context.exit(_NOTHING)


def _report(found: Imported) -> None:
    for note in found.notes:
        say(str(note))
    if found.documents or found.taken:
        for problem in found.problems:
            say(f"{problem} (nothing of this file was imported from there on)")
    documents = "one document" if len(found.documents) == 1 else f"{len(found.documents)} documents"
    say(f"imported {found.taken} of {found.objects} objects into {documents}; {len(found.notes)} notes")


def _names(mapped: tuple[str, ...]) -> dict[str, str]:
    names = {}
    for each in mapped:
        name, equals, ours = each.rpartition("=")
        if not (name and equals and ours):
            raise misuse(f"--map takes FROM=TO, not {each}")
        names[name] = ours
    return names


def _texts(files: tuple[str, ...]) -> Iterator[tuple[str, str | Problem]]:
    """Each file's text, of directories those with a known ending, or why there is none."""
    for given in dict.fromkeys(files):
        if given == "-":
            yield "standard input", text_of(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input")
            continue
        path = Path(given)
        inside = sorted(each for each in path.rglob("*") if each.suffix in _ENDINGS and each.is_file())
        for file in inside if path.is_dir() else [path]:
            yield str(file), file_text(file)
