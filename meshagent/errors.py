"""The error tree. Every error a person can meet says what is wrong, where, and the next step.

MeshError
├── UsageProblem          the command line or configuration cannot be used          exit 2
├── InvalidDocument       one or more problems in documents, each with file:line    exit 3
├── NotFound              the named thing is not there                              exit 1
├── Conflict              the store changed meanwhile: read again and retry         exit 1
├── StoreUnavailable      wait and retry                                            exit 4
├── StoreDenied           a right is missing: tell the person                       exit 4
├── LeaseLost             the store forgot the lease: make a new one                exit 1
├── MeshExists            the store holds a mesh already                            exit 1
├── SignatureRefused      policy is not signed as it must be, or the key is missing exit 1
├── AgentUnreachable      no agent answers on the socket                            exit 4
├── EnvoyMissing / EnvoyTooOld / EnvoyFailed                                        exit 1
├── DaemonNotStarted      an agent or authority that --start started did not answer exit 1
├── PortInUse / DataDirInUse / DataDirUnusable / UnsafeFile                         exit 1
├── CaptureFailed         the rules of transparent capture cannot be put in force   exit 1
├── CertificateRefused    a CA's answer that must not be used                       exit 1
├── AuthorityUnavailable  the CA did not answer                                     exit 1
├── EnrolmentRefused      the authority does not let this host in                   exit 1
└── OrderRefused          a public CA does not certify a gateway's names            exit 1

`docs/errors.md` lists every code; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class MeshError(Exception):
    """Base of all expected errors: `message`, an optional `next_step`, a stable `code` and an `exit_code`."""

    code: ClassVar[str] = "E000"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return self.message

    @property
    def advice(self) -> str:
        """The message and the next step in one line, where one has to say both."""
        return f"{self}: {self.next_step}" if self.next_step else str(self)


class UsageProblem(MeshError):
    """The command line or a setting cannot be used."""

    code = "E101"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding in one document. `line` is 1-based; 0 means that no line is known."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (place, self.field, self.message) if part)


class InvalidDocument(MeshError):
    """All the problems of the documents read, none of which was applied."""

    code = "E102"
    exit_code = 3

    def __init__(self, problems: tuple[Problem, ...], *, next_step: str = "") -> None:
        super().__init__("\n".join(str(problem) for problem in problems), next_step=next_step)
        self.problems = problems


class NotFound(MeshError):
    """The named thing does not exist."""

    code = "E103"


class Conflict(MeshError):
    """The store holds something newer than what the change was made from. Read again and retry."""

    code = "E201"


class StoreUnavailable(MeshError):
    """The store does not answer. Waiting may help."""

    code = "E202"
    exit_code = 4


class StoreDenied(MeshError):
    """The store refuses for want of a right. Waiting does not help."""

    code = "E203"
    exit_code = 4


class LeaseLost(MeshError):
    """The lease is gone, and every key that was bound to it."""

    code = "E204"


class MeshExists(MeshError):
    """The store holds a mesh already."""

    code = "E205"


class SignatureRefused(MeshError):
    """The policy in the store is not signed as it must be, or it is and there is no key to sign a change with."""

    code = "E206"


class RotationRefused(MeshError):
    """The change of roots that was asked for does not fit the one that is under way, or its time has not come."""

    code = "E207"


class AgentUnreachable(MeshError):
    """No agent answers on the local socket."""

    code = "E301"
    exit_code = 4


class DaemonNotStarted(MeshError):
    """An agent or authority that was started in the background ended, or does not answer."""

    code = "E302"


class EnvoyMissing(MeshError):
    """No Envoy binary was found."""

    code = "E401"


class EnvoyTooOld(MeshError):
    """The Envoy found is older than the oldest one supported."""

    code = "E402"


class EnvoyFailed(MeshError):
    """Envoy ended or refused its configuration."""

    code = "E403"


class PortInUse(MeshError):
    """A port that the mesh needs is held by another process."""

    code = "E501"


class DataDirInUse(MeshError):
    """Another agent holds the data directory."""

    code = "E502"


class DataDirUnusable(MeshError):
    """The data directory cannot be written."""

    code = "E503"


class UnsafeFile(MeshError):
    """A secret's file is a link, is owned by someone else, or is open to others."""

    code = "E504"


class CaptureFailed(MeshError):
    """The rules of transparent capture are not in force: nft or the kernel refuses them, or nobody asked in time."""

    code = "E505"


class CertificateRefused(MeshError):
    """A CA's answer failed the acceptance check; the certificate in use stays."""

    code = "E601"


class AuthorityUnavailable(MeshError):
    """The CA gave no answer."""

    code = "E602"


class EnrolmentRefused(MeshError):
    """The authority does not let this host in: the join line is used, has ended, or is another host's."""

    code = "E603"


class OrderRefused(MeshError):
    """A public CA does not certify the names of a gateway; the certificate in use stays."""

    code = "E604"
