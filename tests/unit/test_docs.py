"""The documentation is true: whatever has a name in the code is described, links work, commands and policies are real."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from meshagent import errors
from meshagent.api.metrics import metrics_text
from meshagent.ca.builtin import SETTINGS
from meshagent.cli.policy import policy
from meshagent.config import AgentConfig, setting_keys
from meshagent.documents.decode import decode_documents, decode_one
from meshagent.documents.files import read_documents_of
from meshagent.errors import MeshError
from meshagent.model.intention import HttpMatch, IntentionSource
from meshagent.model.kinds import KINDS
from meshagent.model.service import Check, ServiceDefinition, Upstream
from scripts.docs import ROOT, commands, pages

PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("policies/**/*.md"))
    if "docs/reference" not in path.as_posix()
)
SETS = sorted(path for path in (ROOT / "policies").iterdir() if path.is_dir())
COMMANDS = {words: (command, context) for words, command, context in commands()}
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(page: str) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def spoken_commands(page: str) -> Iterator[list[str]]:
    """The words after `meshagent` of every command in a code block or in backticks."""
    code = [line for block in _FENCE.findall(page) for line in block.splitlines()]
    for each in (*code, *re.findall(r"`([^`\n]+)`", _FENCE.sub("", page))):
        words = each.partition("#")[0].removeprefix("venv/bin/").removeprefix("$ ").split()
        if words and words[0] == "meshagent":
            yield words[1:]


def addressed(words: list[str]) -> str:
    """The command that the words lead to; what follows it is its arguments."""
    path = "meshagent"
    for word in words:
        if f"{path} {word}" not in COMMANDS:
            break
        path = f"{path} {word}"
    return path


@pytest.mark.parametrize("path", pages(), ids=name_of)
def test_a_generated_page_is_as_the_code_makes_it(path: Path):
    assert path.read_text(encoding="utf-8") == pages()[path], "run `make docs`"


def test_nothing_else_lies_between_the_generated_pages():
    found = {path for path in (ROOT / "docs/reference").rglob("*") if path.is_file()}
    assert found == set(pages())


def test_every_setting_is_in_the_reference_and_every_key_is_explained():
    reference, guide = text("docs/reference/configuration.md"), text("docs/configuration.md")
    for key in setting_keys():
        assert f"`{key}`" in reference
        outer, _, inner = key.partition(".")
        assert re.search(rf"^{outer}:", guide, re.MULTILINE), f"{outer} is not in the example"
        assert not inner or inner in guide, f"{key} is not in docs/configuration.md"
    for key in SETTINGS:
        assert f"`ca.{key}`" in guide


def test_the_example_of_the_configuration_is_one():
    example = next(block for block in _FENCE.findall(text("docs/configuration.md")) if "inbound_port" in block)
    decoded = decode_one(example, "docs/configuration.md", AgentConfig)
    assert not decoded.problems and len(decoded.documents) == 1


def test_every_error_is_listed_with_its_code_and_exit_code():
    rows = set(re.findall(r"^\| (E\d+) \| (\w+) \| (\d) \|", text("docs/errors.md"), re.MULTILINE))
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, MeshError)]
    assert rows == {(each.code, each.__name__, str(each.exit_code)) for each in classes}
    assert len({each.code for each in classes}) == len(classes)


def test_every_metric_is_listed_with_its_type():
    status = {
        "agent_version": "0",
        "envoy_version": "0",
        "revision": 0,
        "applied_revision": 0,
        "store_ok": True,
        "heard_at": None,
        "stale_since": datetime(2027, 1, 1, tzinfo=UTC).isoformat(),
        "propagation": {"buckets": [("1", 1), ("+Inf", 2)], "seconds": 3.0, "rejections": 1},
        "problems": {},
        "rejected": {},
        "services": [],
        "envoy": {"ready": True, "restarts": 0},
        "svids": {
            "web": {
                "expires_at": datetime(2027, 1, 1, tzinfo=UTC).isoformat(),
                "served": True,
                "overdue": False,
                "renewals": 1,
                "failures": 0,
            }
        },
        "gateway_certificates": {
            "acme/a.example": {"expires_at": None, "ordered": True, "overdue": False, "failures": 1},
            "/etc/b.pem": {
                "expires_at": "2027-01-01T00:00:00+00:00",
                "ordered": False,
                "overdue": False,
                "failures": 0,
            },
        },
        "bundle": "0123456789abcdef",
        "roots": [{"digest": "0" * 64, "expires_at": datetime(2030, 1, 1, tzinfo=UTC).isoformat(), "leaving": False}],
        "ca_skew_seconds": 0.5,
        "sent": {"CDS": 1},
        "limits": [{"source": "a", "upstream": "b", "limit": "max_requests", "allowed": 5, "left": 1, "reached": 0}],
        "dns": {"queries": {"answered": 1}},
        "rollouts": [{"service": "web", "to": "v2", "phase": "running", "percent": 5}],
    }
    page = metrics_text(status, {"edges": [], "rules": []}, 10).decode()
    served = re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE)
    listed = re.findall(r"^\| `(meshagent_\w+)` \| (\w+) \|", text("docs/metrics.md"), re.MULTILINE)
    assert served and set(listed) == set(served)


def test_every_command_is_in_the_guide_and_in_the_reference():
    guide, reference = text("docs/commands.md"), text("docs/reference/commands.md")
    for words, (command, _) in COMMANDS.items():
        assert f"## {words}\n" in reference
        if not isinstance(command, click.Group):
            assert f"`{words}`" in guide, f"{words} is not in docs/commands.md"


def test_every_exit_code_is_in_the_guide():
    guide = text("docs/commands.md")
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, MeshError)]
    for code in {0, 5, *(each.exit_code for each in classes)}:
        assert f"| {code} |" in guide


@pytest.mark.parametrize(
    ("page", "model"),
    [
        ("policy.md", IntentionSource),
        ("policy.md", HttpMatch),
        *(("policy.md", model) for model in KINDS.values()),
        ("services.md", ServiceDefinition),
        ("services.md", Check),
        ("services.md", Upstream),
    ],
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)
def test_every_field_of_a_document_is_explained(page: str, model: type[ServiceDefinition]):
    guide = text(f"docs/{page}")
    missing = [name for name in model.model_fields if not re.search(rf"`{name}\b|^{name}:", guide, re.MULTILINE)]
    assert missing == []


@pytest.mark.parametrize("path", [*PAGES, *(path for path in pages() if path.suffix == ".md")], ids=name_of)
def test_every_link_to_a_file_leads_there(path: Path):
    page = path.read_text(encoding="utf-8")
    for link in _LINK.findall(_FENCE.sub("", page)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{link}: no such heading"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_commands_that_a_page_names_exist_with_their_options(path: Path):
    for words in spoken_commands(path.read_text(encoding="utf-8")):
        if words == ["COMMAND", "--help"]:
            continue
        found = addressed(words)
        command, context = COMMANDS[found]
        rest = words[len(found.split()) - 1 :]
        takes_arguments = not isinstance(command, click.Group)
        assert takes_arguments or not rest or rest[0].startswith("-"), f"no command: meshagent {' '.join(words)}"
        options = {flag for each in command.get_params(context) for flag in (*each.opts, *each.secondary_opts)}
        unknown = [word for word in rest if re.match(r"--?[a-z]", word) and word not in options]
        assert unknown == [], f"{found} has no {unknown}"


def test_the_readme_shows_the_way_from_nothing_to_an_answer():
    found = [addressed(words) for words in spoken_commands(text("README.md"))]
    way = ["meshagent agent", "meshagent up", "meshagent explain", "meshagent intention allow"]
    places = [found.index(each) for each in way]
    assert places == sorted(places)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_make_targets_that_a_page_names_exist(path: Path):
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    page = path.read_text(encoding="utf-8")
    named = {*re.findall(r"`make ([a-z]+)`", page), *re.findall(r"^make ([a-z]+)", page, re.MULTILINE)}
    assert named <= targets


@pytest.mark.parametrize("path", SETS, ids=name_of)
def test_a_ready_policy_set_validates_and_says_what_it_is_for(path: Path):
    found = read_documents_of([str(path)], KINDS)
    assert not found.problems and found.documents
    page = (path / "README.md").read_text(encoding="utf-8")
    for file in path.glob("*.yaml"):
        assert f"`{file.name}`" in page
    assert f"({path.name}/README.md)" in text("policies/README.md")


def test_policy_validate_accepts_every_ready_set(tmp_path: Path):
    for path in SETS:
        done = CliRunner().invoke(policy, ["validate", "-f", str(path), "--store", f"sqlite://{tmp_path}/none.db"])
        assert done.exit_code == 0, done.output


def test_every_decision_is_listed_and_has_its_parts():
    listed = text("docs/adr/README.md")
    decisions = sorted((ROOT / "docs/adr").glob("0*.md"))
    assert decisions
    for path in decisions:
        assert f"({path.name})" in listed
        page = path.read_text(encoding="utf-8")
        assert page.startswith(f"# {path.name[:4]}: ")
        for part in ("**Question", "**Options", "**Decision", "**What would change our mind"):
            assert part in page, f"{path.name} has no {part.strip('*')}"


def test_examples_of_documents_in_the_guides_are_valid():
    policy_blocks = [block for block in _FENCE.findall(text("docs/policy.md")) if block.startswith("kind:")]
    assert len(policy_blocks) >= len(KINDS)
    for block in policy_blocks:
        assert decode_documents(block, "docs/policy.md", KINDS).problems == ()
    services = [block for block in _FENCE.findall(text("docs/services.md")) if block.startswith("name:")]
    assert services
    for block in services:
        assert decode_one(block, "docs/services.md", ServiceDefinition).problems == ()
