"""Names of other meshes -> names of our services. What two of them would share is told, and opens nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping

from meshagent.importing.fields import Fields
from meshagent.model.names import check_service_name

_CLUSTER_HOST = re.compile(r"([a-z0-9-]+)\.([a-z0-9-]+)\.svc(?:\.[a-z0-9.-]+)?")
_PRINCIPAL = re.compile(r"(?:[^*/]+|\*)/ns/([^*/]+)/sa/([^*/]+)")


class Names:
    """`given` holds what a person says: a source's name (`reviews`, `default/reviews`, a principal) and ours."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given
        self._origins: dict[str, set[str]] = {}

    def service(self, fields: Fields, text: str, *, space: str = "default", caller: bool = False) -> str | None:
        """Our name of a service in a namespace; None, and a note, where it cannot be one of ours."""
        identity = f"{space}/{text}"
        name = self._given.get(identity, self._given.get(text, text))
        try:
            check_service_name(name)
        except ValueError:
            fields.tell("left out", f"{text!r} is no name of a service here: say which it is with --map {text}=NAME")
            return None
        if not {identity, text} & self._given.keys():  # what a person maps to one name is meant to be one
            self._origins.setdefault(f"caller {name}" if caller else name, set()).add(identity)
        return name

    def host(self, fields: Fields, text: str, space: str) -> str | None:
        """Our name for a host of Istio: `reviews` or `reviews.default.svc.cluster.local`; others need --map."""
        if text in self._given:
            return self.service(fields, text)
        found = _CLUSTER_HOST.fullmatch(text)
        if found:
            return self.service(fields, found[1], space=found[2])
        return self.service(fields, text, space=space)

    def principal(self, fields: Fields, text: str) -> str | None:
        """The service behind `cluster.local/ns/foo/sa/bar`: bar. None where the text is no single one."""
        if text in self._given:
            return self.service(fields, text, caller=True)
        found = _PRINCIPAL.fullmatch(text.removeprefix("spiffe://"))
        if not found:
            return None
        name = self.service(fields, found[2], space=found[1], caller=True)
        if name is not None:
            fields.tell("changed", f"{text} is read as the service {name} (--map {text}=NAME for another)")
        return name

    def given(self, text: str) -> bool:
        """Whether a person said what a name means here."""
        return text in self._given

    def shared(self, name: str, *, caller: bool = False) -> tuple[str, ...]:
        """The sources' names that became this one, where they are several."""
        origins = self._origins.get(f"caller {name}" if caller else name, set())
        return tuple(sorted(origins)) if len(origins) > 1 else ()
