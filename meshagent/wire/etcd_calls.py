"""The calls of etcd that meshagent makes, and what their failures mean. No I/O.

Words and codes measured on 3.4.23 and 3.5.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from grpc import StatusCode

from meshagent.errors import LeaseLost, MeshError, StoreDenied, StoreUnavailable
from meshagent.wire import etcd_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message

    Ask = TypeVar("Ask", bound=Message)
    Answer = TypeVar("Answer", bound=Message)
else:
    Ask = TypeVar("Ask")
    Answer = TypeVar("Answer")

_RUNS = "Check that etcd runs and can be reached from this host."
_TOKEN_WORDS = ("invalid auth token", "auth store is old", "user name is empty")
_HEALTH = "See `etcdctl endpoint status --cluster` and etcd's log."


@dataclass(frozen=True, slots=True)
class Method(Generic[Ask, Answer]):
    """A call by its path: the messages' package is private, so generated stubs would name one that etcd has not.

    `harmless`: it may be done twice. `signed`: it carries the token, if there is one. 3.4 refuses a login that does.
    `streams`: it is one question and one answer on a stream.
    """

    path: str
    answer: Callable[[bytes], Answer]
    harmless: bool = True
    signed: bool = True
    streams: bool = False


RANGE: Method[pb.RangeRequest, pb.RangeResponse] = Method("/etcdserverpb.KV/Range", pb.RangeResponse.FromString)
READ: Method[pb.TxnRequest, pb.TxnResponse] = Method("/etcdserverpb.KV/Txn", pb.TxnResponse.FromString)
WRITE: Method[pb.TxnRequest, pb.TxnResponse] = Method("/etcdserverpb.KV/Txn", pb.TxnResponse.FromString, harmless=False)
COMPACT: Method[pb.CompactionRequest, pb.CompactionResponse] = Method(
    "/etcdserverpb.KV/Compact", pb.CompactionResponse.FromString
)
GRANT: Method[pb.LeaseGrantRequest, pb.LeaseGrantResponse] = Method(
    "/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantResponse.FromString
)
REVOKE: Method[pb.LeaseRevokeRequest, pb.LeaseRevokeResponse] = Method(
    "/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeResponse.FromString
)
KEEP_ALIVE: Method[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse] = Method(
    "/etcdserverpb.Lease/LeaseKeepAlive", pb.LeaseKeepAliveResponse.FromString, streams=True
)
AUTHENTICATE: Method[pb.AuthenticateRequest, pb.AuthenticateResponse] = Method(
    "/etcdserverpb.Auth/Authenticate", pb.AuthenticateResponse.FromString, signed=False
)
ROLE_ADD: Method[pb.AuthRoleAddRequest, pb.AuthRoleAddResponse] = Method(
    "/etcdserverpb.Auth/RoleAdd", pb.AuthRoleAddResponse.FromString, harmless=False
)
ROLE_GET: Method[pb.AuthRoleGetRequest, pb.AuthRoleGetResponse] = Method(
    "/etcdserverpb.Auth/RoleGet", pb.AuthRoleGetResponse.FromString
)
ROLE_GRANT: Method[pb.AuthRoleGrantPermissionRequest, pb.AuthRoleGrantPermissionResponse] = Method(
    "/etcdserverpb.Auth/RoleGrantPermission", pb.AuthRoleGrantPermissionResponse.FromString
)
ROLE_REVOKE: Method[pb.AuthRoleRevokePermissionRequest, pb.AuthRoleRevokePermissionResponse] = Method(
    "/etcdserverpb.Auth/RoleRevokePermission", pb.AuthRoleRevokePermissionResponse.FromString, harmless=False
)
USER_ADD: Method[pb.AuthUserAddRequest, pb.AuthUserAddResponse] = Method(
    "/etcdserverpb.Auth/UserAdd", pb.AuthUserAddResponse.FromString, harmless=False
)
USER_GRANT: Method[pb.AuthUserGrantRoleRequest, pb.AuthUserGrantRoleResponse] = Method(
    "/etcdserverpb.Auth/UserGrantRole", pb.AuthUserGrantRoleResponse.FromString
)
STATUS: Method[pb.StatusRequest, pb.StatusResponse] = Method(
    "/etcdserverpb.Maintenance/Status", pb.StatusResponse.FromString
)
WATCH: Method[pb.WatchRequest, pb.WatchResponse] = Method("/etcdserverpb.Watch/Watch", pb.WatchResponse.FromString)


class Behind(Exception):
    """The revision asked for is compacted, or is none that this etcd has had."""


class AuthOff(Exception):
    """A login at an etcd whose authentication is off."""


class RoleUnknown(Exception):
    """No role has that name."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failed call means: `error` for the caller, and what to try before.

    `token`: a new token may mend it. `elsewhere`: another member may do better. `begun`: it may have been done.
    """

    error: MeshError | Behind | AuthOff | RoleUnknown
    token: bool = False
    elsewhere: bool = False
    begun: bool = False


def failure_of(code: StatusCode, said: str, member: str) -> Failure:
    """The meaning of a status and its text, from the member at `host:port`."""
    if any(words in said for words in _TOKEN_WORDS):
        return Failure(_not_known(said), token=True)
    if error := _refusal(code, said):
        return Failure(error)
    return _not_reached(code, said, member)


def _refusal(code: StatusCode, said: str) -> MeshError | Behind | AuthOff | RoleUnknown | None:
    """What every member would say, at once; None for anything else."""
    for words, error in _SAID.items():
        if words in said:
            return error(said)
    if code is StatusCode.PERMISSION_DENIED:
        return StoreDenied(f"etcd refuses: {_plain(said)}.", next_step="Grant the user's role the right.")
    if code is StatusCode.OUT_OF_RANGE:
        return Behind(said)
    if code in (StatusCode.INVALID_ARGUMENT, StatusCode.FAILED_PRECONDITION, StatusCode.UNIMPLEMENTED):
        return StoreDenied(f"etcd does not take this: {_plain(said)}.", next_step="See etcd's limits and its version.")
    return None


def _not_reached(code: StatusCode, said: str, member: str) -> Failure:
    """The failure of a member that did not do it, as far as one knows."""
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return Failure(
            StoreDenied(
                f"etcd's certificate at {member} is not accepted.",
                next_step="Check store_ca_file, and that the URL's host is one of the certificate's names.",
            ),
            elsewhere=True,
        )
    if code is StatusCode.DEADLINE_EXCEEDED and "etcdserver" not in said:
        # A token that the member will know only in the future makes it wait, and says nothing else (measured).
        error = StoreUnavailable(f"etcd at {member} did not answer in time.", next_step=_RUNS)
        return Failure(error, elsewhere=True, begun=True)
    if "etcdserver" in said:
        error = StoreUnavailable(f"etcd at {member} cannot do it now: {_plain(said)}.", next_step=_HEALTH)
        return Failure(error, elsewhere=True, begun=True)
    error = StoreUnavailable(f"etcd at {member} does not answer: {_plain(said) or code.name}", next_step=_RUNS)
    # gRPC's words for a call that never left: no connection came about.
    return Failure(error, elsewhere=True, begun="failed to connect to all addresses" not in said)


_SAID: dict[str, Callable[[str], MeshError | AuthOff | RoleUnknown]] = {
    "lease not found": lambda _: LeaseLost(
        "The lease has ended.", next_step="Make a new lease and write its keys again."
    ),
    "authentication is not enabled": AuthOff,
    "role name not found": RoleUnknown,
    "authentication failed": lambda _: StoreDenied(
        "etcd does not accept the user and password.", next_step="Check store_username and store_password_file."
    ),
    "too large": lambda said: StoreDenied(f"etcd does not take this: {_plain(said)}.", next_step="Split the change."),
    "larger than max": lambda said: StoreDenied(
        f"etcd does not take this: {_plain(said)}.", next_step="Split the change."
    ),
    "database space exceeded": lambda _: StoreUnavailable(
        "etcd takes no writes: its database is full.",
        next_step="Compact and defragment it, then `etcdctl alarm disarm`.",
    ),
}


def _not_known(said: str) -> StoreDenied:
    if "user name is empty" in said:
        return StoreDenied(
            "etcd asks for a user, and none is configured.", next_step="Set store_username and store_password_file."
        )
    return StoreDenied(f"etcd does not know the session: {_plain(said)}.", next_step="Check etcd's --auth-token.")


def _plain(said: str) -> str:
    """etcd's words without the name of the program in front, fit for a line."""
    return ascii(said.removeprefix("etcdserver: ").removeprefix("mvcc: ").strip().rstrip("."))[1:-1][:300]
