"""Policies that no one here wrote: everything is imported or reported, and three spellings of one thing are one document."""

from __future__ import annotations

import copy
import itertools
import json
import random
import re
from pathlib import Path

import pytest
import yaml

from meshagent.documents.decode import decode_documents
from meshagent.documents.encode import to_yaml
from meshagent.importing.imported import MESHES, import_policy
from meshagent.model.kinds import KINDS

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
ENDINGS = (".yaml", ".json", ".hcl")


def files(mesh, pattern="**/*"):
    return sorted(each for each in (CORPUS / mesh).glob(pattern) if each.suffix in ENDINGS)


def text_of(path):
    """Kuma's test data is all in shadow mode, which is enforced nowhere: here it is taken as if it were."""
    return path.read_text().replace("kuma.io/effect: shadow", "kuma.io/effect: taken")


def read(mesh, path):
    return import_policy(mesh, [(str(path), text_of(path))], {})


@pytest.mark.parametrize("mesh", MESHES)
def test_every_object_is_imported_or_reported_and_its_documents_can_be_applied(mesh):
    objects = 0
    for path in files(mesh):
        found = read(mesh, path)
        assert not found.problems, (path, found.problems)
        told = {note.thing for note in found.notes}
        assert found.taken or len(told) >= 1 or not found.objects, path
        decoded = decode_documents(to_yaml(found.documents), "imported.yaml", KINDS)
        assert not decoded.problems, (path, decoded.problems)
        assert tuple(each.document for each in decoded.documents) == found.documents
        objects += found.objects
    assert objects > 30


@pytest.mark.parametrize("mesh", MESHES)
def test_no_field_of_the_corpus_is_a_surprise(mesh):
    strange = [
        str(note)
        for path in files(mesh)
        for note in read(mesh, path).notes
        if "not known to this import" in note.message
    ]
    assert strange == []


@pytest.mark.parametrize("mesh", MESHES)
def test_a_field_that_nobody_knows_is_reported_wherever_it_stands(mesh):
    """One more field in each mapping of a whole object, one after the other."""
    kinds = {"istio": "samples/bookinfo/**/*", "consul": "docs-examples/service-r*/*", "kuma": "**/mesh[ct]*/*"}
    told = 0
    for path in files(mesh, kinds[mesh]):
        if path.suffix != ".yaml":
            continue
        for document in filter(None, yaml.safe_load_all(text_of(path))):
            before = import_policy(mesh, [("f.yaml", yaml.safe_dump(document))], {})
            for place in _mappings(document.get("spec", {})):
                place["zz_unheard_of"] = "x"
                after = import_policy(mesh, [("f.yaml", yaml.safe_dump(document))], {})
                del place["zz_unheard_of"]
                if any("zz_unheard_of" in str(note) for note in after.notes):
                    told += 1
                else:
                    assert after.notes != before.notes or _dropped(before, place), (path, place)
    assert told >= 8


def _mappings(value):
    if isinstance(value, dict):
        yield value
        for each in list(value.values()):
            yield from _mappings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _mappings(each)


def _dropped(before, place):
    """What is around the place was left out as a whole, or the place holds names that are the person's own."""
    return bool(before.notes) or all(isinstance(each, str) for each in place.values())


def test_what_istio_refuses_is_refused():
    refused = 0
    for path in files("istio", "pkg/config/validation/testdata/crds/*-invalid.yaml"):
        objects = [each for each in yaml.safe_load_all(path.read_text()) if each]
        for each in objects:
            found = import_policy("istio", [("f.yaml", yaml.safe_dump(each))], {})
            assert found.documents == () and found.taken == 0, each
            if each["kind"] in ("AuthorizationPolicy", "PeerAuthentication", "DestinationRule"):
                assert [note.verdict for note in found.notes if note.verdict == "invalid"], each
                refused += 1
    assert refused == 11


def _camel(name, upper):
    words = [word.capitalize() for word in re.sub(r"([A-Z])", r"_\1", name).lower().split("_") if word]
    return "".join(words) if upper else words[0].lower() + "".join(words[1:])


def _spelled(value, spell):
    if isinstance(value, dict):
        return {spell(key) if key not in OWN else key: _spelled(each, spell) for key, each in value.items()}
    return [_spelled(each, spell) for each in value] if isinstance(value, list) else value


OWN = ("v1", "v2", "*", "test")


def _entries():
    """Each config entry of the corpus that gives documents, as plain data."""
    from meshagent.importing.hcl import read_hcl

    for path in files("consul"):
        if path.suffix == ".hcl":
            for tree in read_hcl(path.read_text(), str(path)).trees:
                blocks = tree.data.get("config_entries", {}).get("bootstrap", [])
                listed = [tree.data] if not blocks else blocks if isinstance(blocks, list) else [blocks]
                yield from (each for each in listed if {"kind", "Kind"} & set(each))


def test_consuls_three_spellings_of_one_entry_are_one_document():
    compared = 0
    for entry in _entries():
        plain = _spelled(entry, lambda key: re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower())
        body = {key: each for key, each in plain.items() if key not in ("kind", "name")}
        kind = _camel(plain["kind"].replace("-", "_"), upper=True)
        resource = {
            "apiVersion": "consul.hashicorp.com/v1alpha1",
            "kind": kind,
            "metadata": {"name": plain["name"]},
            "spec": _spelled(body, lambda key: _camel(key, upper=False)),
        }
        spellings = [entry, plain, _spelled(plain, lambda key: _camel(key, upper=True)), resource]
        made = [import_policy("consul", [("f.yaml", yaml.safe_dump(each))], {}) for each in spellings]
        assert all(one.documents == two.documents for one, two in itertools.pairwise(made)), entry
        assert len({len(each.notes) for each in made}) == 1, entry
        compared += bool(made[0].documents)
    assert compared >= 15


@pytest.mark.parametrize(
    ("kind", "spellings"), [("service-resolver", ("01.hcl", "02.yaml")), ("service-router", ("03.hcl", "04.yaml"))]
)
def test_the_pairs_of_consuls_own_documentation_are_equal(kind, spellings):
    first, second = (read("consul", CORPUS / "consul/docs-examples" / kind / name) for name in spellings)
    assert first.documents == second.documents and first.documents


STRANGE = [
    None,
    0,
    -1,
    1.5,
    True,
    "",
    "*",
    "A_b",
    [],
    {},
    [{}],
    [None],
    {"a": {}},
    "5s",
    10**20,
    "\u2028",
    "//a",
    "(",
    "a,b",
]


def _documents():
    from meshagent.importing.hcl import read_hcl

    for mesh in MESHES:
        for path in files(mesh):
            if path.suffix == ".hcl":
                yield from ((mesh, tree.data) for tree in read_hcl(path.read_text(), str(path)).trees)
            else:
                yield from ((mesh, each) for each in yaml.safe_load_all(text_of(path)) if isinstance(each, dict))


def _places(value):
    for key, each in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(each, dict | list):
            yield from _places(each)


def test_each_object_alone_also_with_a_strange_value_in_it_is_imported_or_reported():
    chance = random.Random(5)
    for mesh, document in _documents():
        for _ in range(3):
            found = import_policy(mesh, [("f.json", json.dumps(document))], {})
            assert found.taken or found.notes or not found.objects, document
            assert not decode_documents(to_yaml(found.documents), "imported.yaml", KINDS).problems, document
            if places := list(_places(document)):
                around, key = chance.choice(places)
                around[key] = copy.deepcopy(chance.choice(STRANGE))
