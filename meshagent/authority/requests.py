"""What may be asked, as checked values. Unknown fields, wrong types and anything too long are refused. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar

from pydantic import Field, ValidationError

from meshagent.errors import UsageProblem
from meshagent.model.names import Model, ServiceName

MAX_BODY = 64 * 1024
_LONGEST_CSR = 16 * 1024
_LONGEST_TTL = timedelta(days=3650).total_seconds()
Asked = TypeVar("Asked", bound=Model)


class EnrolRequest(Model):
    """A host that joins. `token` is what its join line holds."""

    token: str = Field(min_length=20, max_length=200, repr=False)
    host: ServiceName
    csr: str = Field(max_length=_LONGEST_CSR)


class RenewRequest(Model):
    """A host's new certificate; which host, its present certificate says."""

    csr: str = Field(max_length=_LONGEST_CSR)


class SignRequest(Model):
    """A service's certificate. `ttl_seconds` is a wish: it is cut to what is allowed."""

    csr: str = Field(max_length=_LONGEST_CSR)
    spiffe_id: str = Field(max_length=512)
    ttl_seconds: float = Field(gt=0, le=_LONGEST_TTL, allow_inf_nan=False)

    @property
    def ttl(self) -> timedelta:
        """The wish."""
        return timedelta(seconds=self.ttl_seconds)


def parse_request(model: type[Asked], body: bytes) -> Asked:
    """The request in a body. Raises UsageProblem, which repeats nothing of it: there may be a secret in it."""
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part)[:40] for part in first["loc"])
        said = f"{place}: {first['msg']}" if place else first["msg"]
        raise UsageProblem(
            f"the request cannot be read: {said}", next_step="send what docs/authority.md says"
        ) from None
