"""Models -> plain data, YAML and JSON, in the spelling that they are read back from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import yaml
from pydantic import BaseModel

from meshagent.documents.scalars import resolve

_TEXT_TAG = "tag:yaml.org,2002:str"
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_Base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def plain(document: BaseModel) -> dict[str, Any]:
    """The document as plain data: kind and name first, then what differs from the defaults, in the model's order."""
    data = document.model_dump(mode="json", exclude_defaults=True, by_alias=True)
    head = {name: getattr(document, name) for name in ("kind", "name") if name in type(document).model_fields}
    return head | data


def to_yaml(documents: Iterable[BaseModel]) -> str:
    """Documents as YAML, separated by `---`."""
    texts = (
        yaml.dump(plain(each), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120) for each in documents
    )
    return "---\n".join(texts)


def to_json(document: BaseModel) -> str:
    """One document as JSON. Characters that YAML cannot hold or would fold are escaped: our reader reads JSON as YAML."""
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(plain(document), ensure_ascii=False))


class _Dumper(_Base):  # type: ignore[misc] # the base is chosen at run time
    """PyYAML's, which quotes what YAML 1.1 would take for something else (`on`, `2027-01-01`)."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 # a document that is read by people repeats itself
        return True


def _text(dumper: Any, value: str) -> Any:
    """Text is quoted where YAML 1.2, and so our reader, would take it for a number (`0o17`, `1e5`)."""
    style = None if resolve(value) == value else "'"
    return dumper.represent_scalar(_TEXT_TAG, value, style=style)


_Dumper.add_representer(str, _text)
