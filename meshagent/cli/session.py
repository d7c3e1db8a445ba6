"""The two ways out of a command: about the mesh to the store, about this host to its agent. There is no third.

Where they are: the option, else the environment, else the agent's configuration file, else its defaults.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from meshagent.cli.output import Form
from meshagent.errors import StoreUnavailable

if TYPE_CHECKING:
    from meshagent.api.client import AgentClient
    from meshagent.cli.mesh import OpenMesh
    from meshagent.config import AgentConfig
    from meshagent.state.signing import Signing
    from meshagent.store.access import Access

SYSTEM_SOCKET = Path("/run/meshagent/agent.sock")
OPERATOR_FILE = "operator.yaml"
OPERATOR_KEYS = ("store_token_file", "store_username", "store_password_file")
_SIGNING = ("MESHAGENT_POLICY_SIGNING_KEY", "MESHAGENT_POLICY_PUBLIC_KEYS")
_TIMEOUT = timedelta(seconds=10)


@dataclass(slots=True)
class Session:
    """What the command line says; None: nothing."""

    store: str | None = None
    api: str | None = None
    config: Path | None = None
    output: Form | None = None
    wait: bool | None = None
    timeout: timedelta | None = None
    store_token_file: Path | None = None

    def form(self, default: Form = "table") -> Form:
        """How data is to be printed."""
        return self.output or default

    @property
    def waits(self) -> bool:
        """Whether a change waits until it is in force: as told, else where a person looks on."""
        return sys.stdout.isatty() if self.wait is None else self.wait

    @property
    def seconds(self) -> float:
        """How long to wait at most."""
        return (self.timeout or _TIMEOUT).total_seconds()

    @asynccontextmanager
    async def mesh(self, url: str = "", *, make: bool = False) -> AsyncIterator[OpenMesh]:
        """The mesh in its store (or in the one at `url`), which `make` may create.

        Raises UsageProblem, StoreUnavailable and StoreDenied.
        """
        from meshagent.cli.logs import quiet_log

        quiet_log()
        from meshagent.cli.mesh import OpenMesh
        from meshagent.state.keys import Keys
        from meshagent.state.reach import catalog_at
        from meshagent.store import open_store

        signing = self._signing()
        url = url or self.store_url()
        if not make and is_absent(url):
            raise StoreUnavailable(
                f"there is no store at {url}",
                next_step="start `meshagent agent` once, which makes it; or name another with --store or MESHAGENT_STORE",
            )
        access = self.access(url)
        store = await open_store(url, access)
        keys = Keys(signed=bool(signing.trust))
        catalog = catalog_at(url, access, store, keys)
        try:
            yield OpenMesh(store, catalog, keys, shown(url), signing)
        finally:
            await catalog.close()
            await store.close()

    def agent(self) -> AgentClient:
        """This host's agent; it is not asked anything yet. Raises UsageProblem."""
        from meshagent.api.client import AgentClient

        return AgentClient(self.api or os.environ.get("MESHAGENT_API") or self._default_api())

    def access(self, url: str = "") -> Access:
        """Who we are to the store: as told, else as configured. A file asks for nothing, and reading one takes its time."""
        from dataclasses import replace

        from meshagent.state.reach import access_of
        from meshagent.store.access import Access

        if (url or self.store_url()).startswith("sqlite:"):
            return Access()
        found = access_of(self.configured())
        return replace(found, token_file=self.store_token_file.absolute()) if self.store_token_file else found

    def _signing(self) -> Signing:
        """How policy is signed, as the configuration says; it is not read where nobody wrote one: that takes its time."""
        if not (self.config_file or _default_file().exists() or any(name in os.environ for name in _SIGNING)):
            from meshagent.state.signing import UNSIGNED

            return UNSIGNED
        from meshagent.state.operator_keys import load_signing

        return load_signing(self.configured())

    def store_url(self) -> str:
        """The store's URL."""
        return self.store or os.environ.get("MESHAGENT_STORE") or self.configured().store

    @property
    def config_file(self) -> Path | None:
        """The configuration file that was named."""
        named = os.environ.get("MESHAGENT_CONFIG")
        return self.config or (Path(named) if named else None)

    def config_path(self) -> Path:
        """Where the agent's configuration stands, or would."""
        return self.config_file or _default_file()

    def configured(self) -> AgentConfig:
        """The configuration of this machine, with the operator's way to the store where `init` made one.

        Raises InvalidDocument and UsageProblem.
        """
        from meshagent.config import load_config

        # The address is not looked at: no need to find it out.
        return load_config(self.config_file, {"host.address": "127.0.0.1", **self._operator()})

    def _operator(self) -> dict[str, str]:
        """What operator.yaml beside the default agent.yaml says of the store; the environment wins over it."""
        path = _default_file().with_name(OPERATOR_FILE)
        if self.config_file or not os.access(path, os.R_OK):
            return {}
        from meshagent.cli.settings_files import older_settings
        from meshagent.config import variable

        told = older_settings(path)
        return {key: str(told[key]) for key in OPERATOR_KEYS if told.get(key) and not os.environ.get(variable(key))}

    def _default_api(self) -> str:
        """This user's own agent, else that of the machine."""
        configured = self.configured().api_socket
        return str(configured if configured.exists() or not SYSTEM_SOCKET.exists() else SYSTEM_SOCKET)


def shown(url: str) -> str:
    """The URL as it may be printed: without a user name and password that somebody put into it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else url


def _default_file() -> Path:
    """Where `config.load_config` looks for agent.yaml, known without importing it."""
    told = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    home = told if told.is_absolute() else Path.home() / ".config"
    return (Path("/etc") if os.getuid() == 0 else home) / "meshagent/agent.yaml"


def is_absent(url: str) -> bool:
    """Whether the URL is that of a file that is not there.

    Reading must not make one: a mistyped path would become an empty store that nobody else looks at.
    """
    parts = urlsplit(url)
    return parts.scheme == "sqlite" and not Path(unquote(parts.path)).exists()
