"""Files, directories and standard input -> documents."""

import io

import pytest

from meshagent.documents.compose import MAX_BYTES
from meshagent.documents.files import read_cases, read_documents_of, read_paths
from meshagent.model.kinds import KINDS
from meshagent.model.service import ServiceDefinition


def names(decoded):
    assert decoded.problems == ()
    return [located.document.name for located in decoded.documents]


def problems(decoded):
    return [str(problem) for problem in decoded.problems]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies" / "inner").mkdir(parents=True)
    for place, name in {"b.yml": "b", "a.yaml": "a", "inner/c.json": "c", "inner/.d.yaml": "d", "e.txt": "e"}.items():
        (tmp_path / "policies" / place).write_text(f"{{kind: service, name: {name}}}\n")
    return tmp_path


def test_a_directory_is_read_with_all_below_it_sorted_and_without_hidden_files(folder):
    (folder / "policies" / ".git").mkdir()
    (folder / "policies" / ".git" / "x.yaml").write_text("not a document")
    decoded = read_documents_of(["policies"], KINDS)
    assert names(decoded) == ["a", "b", "c"]
    assert [located.file for located in decoded.documents] == [
        "policies/a.yaml",
        "policies/b.yml",
        "policies/inner/c.json",
    ]


def test_a_file_is_read_whatever_its_name_and_once_however_often_it_is_named(folder):
    assert names(
        read_documents_of(["policies/e.txt", folder / "policies", "policies/e.txt", "policies/a.yaml"], KINDS)
    ) == [
        "e",
        "a",
        "b",
        "c",
    ]


def test_a_link_in_a_circle_is_not_followed(folder):
    (folder / "policies" / "inner" / "up").symlink_to(folder / "policies")
    assert names(read_documents_of(["policies"], KINDS)) == ["a", "b", "c"]


def test_a_dash_is_standard_input(folder):
    stdin = io.BytesIO(b"\xef\xbb\xbfkind: mesh\n---\nkind: service\nname: Web\n")
    decoded = read_documents_of(["-", "policies/a.yaml"], KINDS, stdin)
    assert [located.file for located in decoded.documents] == ["standard input", "policies/a.yaml"]
    assert problems(decoded)[0].startswith("standard input:4: name: must be 1 to 63 lower-case letters")


def test_problems_of_all_files_come_at_once(folder):
    (folder / "broken.yaml").write_text("kind: service\nname: [\n")
    (folder / "binary.yaml").write_bytes(b"kind: \xff\xfe\n")
    (folder / "large.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    (folder / "empty").mkdir()
    found = problems(read_documents_of(["broken.yaml", "gone.yaml", "binary.yaml", "large.yaml", "empty"], KINDS))
    assert [line.partition(": ")[0].partition(":")[0] for line in found] == [
        "broken.yaml",
        "gone.yaml",
        "binary.yaml",
        "large.yaml",
        "empty",
    ]
    assert found[1] == f"gone.yaml: cannot be read: there is no such file (this is {folder})"
    assert found[4] == "empty: holds no file that ends in .yaml, .yml, .json"


def test_what_may_not_be_read_is_a_problem_with_its_next_step(folder, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.open", refuse)
    assert problems(read_documents_of(["policies/a.yaml"], KINDS)) == [
        "policies/a.yaml: cannot be read by this user: change its mode, or run as its owner"
    ]
    monkeypatch.undo()
    monkeypatch.setattr("os.scandir", refuse)
    assert problems(read_documents_of([folder / "policies"], KINDS)) == [
        f"{folder}/policies: cannot be read by this user: change its mode, or run as its owner"
    ]


def test_a_disk_that_fails_is_a_problem_of_its_file(folder, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("pathlib.Path.open", fail)
    assert problems(read_documents_of(["policies/a.yaml"], KINDS)) == [
        "policies/a.yaml: cannot be read: Input/output error: check the path and the disk"
    ]


def test_a_document_in_two_files_names_both_places(folder):
    (folder / "again.yaml").write_text("kind: mesh\n---\nkind: service\nname: a\n")
    assert problems(read_documents_of(["policies", "again.yaml"], KINDS)) == [
        "again.yaml:3: service a: is given twice (first in policies/a.yaml:1)"
    ]


def test_definitions_of_services_are_read_without_a_kind(folder):
    (folder / "web.yaml").write_text("name: web\nport: 80\n---\nname: api\nport: 81\n")
    assert names(read_paths(["web.yaml"], ServiceDefinition)) == ["web", "api"]
    missing, kind = problems(read_paths(["policies/a.yaml"], ServiceDefinition))
    assert missing == "policies/a.yaml:1: port: is missing"
    assert kind.startswith(
        "policies/a.yaml:1: kind: is not a field of service definition (its fields: name, id, port, "
    )


def test_files_of_cases_are_no_documents_and_are_read_by_themselves(folder):
    for place in ("a.cases.yaml", "inner/b.cases.json", "inner/.c.cases.yaml"):
        (folder / "policies" / place).write_text(f"{{name: {place[0]}, port: 1}}\n")
    assert names(read_documents_of(["policies"], KINDS)) == ["a", "b", "c"]
    found = read_cases(["policies", "policies/a.yaml", "policies/a.cases.yaml"], ServiceDefinition)
    assert [located.file for located in found.documents] == ["policies/a.cases.yaml", "policies/inner/b.cases.json"]
    assert problems(read_cases(["gone.cases.yaml"], ServiceDefinition))[0].startswith("gone.cases.yaml: cannot be read")
