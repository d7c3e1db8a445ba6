"""Models -> plain data, YAML and JSON, in the spelling that they are read back from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import yaml
from pydantic import BaseModel

from meshagent.documents.scalars import resolve


def plain(document: BaseModel) -> dict[str, Any]:
    """The document as plain data: kind and name first, then what differs from the defaults, in the order of the model."""
    data = document.model_dump(mode="json", exclude_defaults=True)
    head = {name: getattr(document, name) for name in ("kind", "name") if hasattr(document, name)}
    return head | data


def to_yaml(documents: Iterable[BaseModel]) -> str:
    """Documents as YAML, separated by `---`."""
    texts = (
        yaml.dump(plain(each), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120) for each in documents
    )
    return "---\n".join(texts)


def to_json(document: BaseModel) -> str:
    """One document as JSON."""
    return json.dumps(plain(document), ensure_ascii=False)


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 readers would take for something else."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    """Text that our reader or another would not read back as the same text is quoted."""
    node = yaml.SafeDumper.represent_str(dumper, value)
    if node.style is None and resolve(value) != value:
        return yaml.ScalarNode(node.tag, value, style="'")
    return node


_Dumper.add_representer(str, _text)
