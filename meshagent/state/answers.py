"""What one host wants all hosts of a gateway to answer a CA that asks for its names: a record that the gateway vouches for.

Whoever may write it could else have any CA certify the gateway's names for a key of its own.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated

from pydantic import Field

from meshagent.model.names import Model, ServiceName
from meshagent.state.records import Version

Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,200}$")]
Thumbprint = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]
_PURPOSE = "meshagent answers to a CA, 1"


class Answers(Model):
    """By token, the thumbprint of the account that the CA is to certify. They hold until `until`."""

    gateway: ServiceName
    host: ServiceName
    answers: dict[Token, Thumbprint] = Field(max_length=100)
    until: datetime

    @property
    def content(self) -> bytes:
        """What is signed."""
        told = self.model_dump(mode="json", include=set(Answers.model_fields))
        return json.dumps({"purpose": _PURPOSE, **told}, sort_keys=True, separators=(",", ":")).encode()


class AnswersRecord(Answers):
    """With the gateway's certificate (a PEM chain) and the signature by its key, in base64."""

    v: Version = 1
    chain: str = Field(max_length=65536)
    signature: str = Field(max_length=1000)
