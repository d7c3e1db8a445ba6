"""The authority's composition root: every part of it, one task group, from start to graceful end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Never

import structlog

from meshagent.authority.answers import Answers, Tools
from meshagent.authority.app import make_app, metrics_app
from meshagent.authority.following import Following
from meshagent.authority.ledger import Reading, load_ledger
from meshagent.authority.listening import Listening, opened, raise_descriptor_limit
from meshagent.authority.metrics import Metrics
from meshagent.authority.publishing import publish, publish_root
from meshagent.authority.signatory import Signatory
from meshagent.authority.standing import Standing
from meshagent.authority.tls import LIFE, serving_context
from meshagent.authority.upstream import open_upstream
from meshagent.config.authority import AuthorityConfig
from meshagent.errors import Conflict, DataDirInUse, MeshError, PortInUse, StoreDenied, StoreUnavailable
from meshagent.host.notify import Notifier
from meshagent.host.watchdog import Signs, feed, feed_every
from meshagent.private import locked, private_dir
from meshagent.state.keys import Keys
from meshagent.state.operator_keys import load_signing
from meshagent.state.reach import open_configured
from meshagent.store.lazy import LazyStore
from meshagent.telemetry.log import set_up_log

_log = structlog.get_logger("meshagent")
_LOOK_SECONDS = 30.0  # between two looks when nothing changed
_RETRY_SECONDS = 2.0
_STOP_SECONDS = 20.0
_RELOADED = ("max_ttl", "host_ttl", "rate_limits", "nomad", "store_for_hosts")


async def run(config: AuthorityConfig, reload: Callable[[], AuthorityConfig]) -> int:
    """Run the authority until SIGTERM or SIGINT. `reload` reads its settings again. Raises MeshError when it cannot start."""
    set_up_log(config.log_level)
    raise_descriptor_limit()
    try:
        with locked(private_dir(config.data_dir) / "authority.lock", wait_seconds=0):
            await AuthorityDaemon(config, reload).serve()
    except DataDirInUse:
        raise DataDirInUse(
            f"another authority runs on {config.data_dir}", next_step="stop it, or give this one its own data_dir"
        ) from None
    return 0


class AuthorityDaemon:
    """Everything that one authority consists of."""

    def __init__(self, config: AuthorityConfig, reload: Callable[[], AuthorityConfig]) -> None:
        self._config = config
        self._reload = reload
        trust = load_signing(config).trust
        self._signed = bool(trust)
        self._keys = Keys(signed=self._signed)
        self._store = LazyStore(lambda: open_configured(config))
        self._reading = Reading(self._keys, trust, load_ledger(config.data_dir))
        self._wake = asyncio.Event()
        self._following = Following(self._store, self._reading, config.data_dir, self._wake.set)
        self._standing = Standing(config, open_upstream(config.issuer), _now)
        self._signatory = Signatory(config.data_dir, _now)
        self._metrics = Metrics()
        tools = Tools(self._store, self._keys, self._reading, self._signatory, self._metrics, _now, time.monotonic)
        self._answers = Answers(config, tools)
        self._listening: Listening | None = None
        self._notifier = Notifier.of(os.environ)
        self._publishing_problem = ""
        self._served: tuple[str, tuple[str, ...]] = ("", ())
        self._serve_anew = _now()

    async def serve(self) -> None:
        """Listen once there is a certificate to show, and serve until told to stop."""
        socket = opened(self._config.listen)
        self._listening = Listening(make_app(self._answers, self.problems), socket)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._load_again)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in self._loops()]
            self._notifier.ready(f"authority {self._config.name}")
            await stop.wait()
            self._notifier.stopping(_STOP_SECONDS)
            _log.info("authority_stopping")
            await self._listening.close()
            for task in tasks:
                task.cancel()
        await self._store.close()
        _log.info("authority_stopped")

    def problems(self) -> tuple[str, ...]:
        """What is wrong with this authority now."""
        found = [*self._standing.problems(), self._signatory.audit_problem(), self._publishing_problem]
        if self._following.problem:
            found.append(f"the store is away, so no host can join: {self._following.problem}")
        return tuple(each for each in found if each)

    def _loops(self) -> list[Coroutine[Any, Any, Any]]:
        assert self._listening  # noqa: S101 - set by the one caller
        loops: list[Coroutine[Any, Any, Any]] = [
            self._following.run(),
            self._following.check(),
            self._look(),
            self._listening.end_slow(),
        ]
        if every := feed_every(os.environ, os.getpid()):  # a loop that ends takes the rest along
            loops.append(feed(self._notifier, every, _moving))
        if self._config.metrics != "none":
            loops.append(self._serve_metrics())
        return loops

    async def _look(self) -> Never:
        """Keep the certificate, what is shown of it, and the TLS in order."""
        while True:
            self._wake.clear()
            if self._config.issuer.provider == "root" and not self._signed:
                await self._written(self._root_written)
            self._signatory.intermediate = await self._standing.look(self._reading.ledger)
            await self._written(self._record_written)
            try:
                await self._serve_tls()
            except (MeshError, OSError) as error:  # the TLS that is served stays
                _log.error("tls_not_renewed", problem=str(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _RETRY_SECONDS if self._publishing_problem else _LOOK_SECONDS)

    async def _written(self, write: Callable[[], Coroutine[Any, Any, None]]) -> None:
        before, self._publishing_problem = self._publishing_problem, ""
        if self._following.problem:
            return
        try:
            await write()
        except (StoreUnavailable, StoreDenied, Conflict) as error:
            self._publishing_problem = str(error)
        except MeshError as error:
            self._publishing_problem = error.advice
        if self._publishing_problem and self._publishing_problem != before:
            _log.error("authority_not_published", problem=self._publishing_problem)

    async def _root_written(self) -> None:
        root = await asyncio.to_thread(self._standing.root)
        if root is not None and self._reading.ledger.trust_domain:
            await publish_root(self._store, self._keys, root, self._reading.ledger)

    async def _record_written(self) -> None:
        if self._reading.ledger.known:
            await publish(self._store, self._keys, self._config.name, self._standing.record())

    async def _serve_tls(self) -> None:
        """Serve with a fresh certificate when ours changed, the roots did, or half of its life is over."""
        current, ledger = self._standing.current, self._reading.ledger
        if current is None or not ledger.known or self._listening is None:
            return
        wanted = (current.fingerprint, ledger.roots)
        if wanted == self._served and _now() < self._serve_anew:
            return
        config = self._config
        context = serving_context(
            config.data_dir, current, config.name, ledger.trust_domain, config.address, ledger.roots, _now()
        )
        await self._listening.serve(context)
        first, self._served = not self._served[0], wanted
        self._serve_anew = _now() + min(LIFE, current.ends - _now()) / 2
        if first:
            _log.info("authority_started", name=config.name, listen=config.listen, address=config.address)

    async def _serve_metrics(self) -> None:
        try:
            listening = Listening(metrics_app(self._metrics, self._measure), opened(self._config.metrics))
        except PortInUse as error:
            _log.error("metrics_not_served", address=self._config.metrics, problem=str(error), next_step="set metrics")
            return
        try:
            await listening.serve(None)
            await asyncio.Event().wait()
        finally:
            await listening.close()

    def _measure(self) -> None:
        current = self._standing.current
        left = (current.ends - _now()) if current else timedelta(0)
        self._metrics.intermediate.set(left.total_seconds())
        self._metrics.store.set(0 if self._following.problem else 1)
        self._metrics.hosts.set(len(self._reading.ledger.grants))

    def _load_again(self) -> None:
        """SIGHUP: limits and rules count at once; the rest needs a new start."""
        self._notifier.reloading(time.monotonic())
        self._read_again()
        self._notifier.ready(f"authority {self._config.name}")

    def _read_again(self) -> None:
        try:
            config = self._reload()
        except MeshError as error:
            _log.error("settings_not_read", problem=str(error))
            return
        fixed = AuthorityConfig.model_fields.keys() - set(_RELOADED)
        changed = sorted(key for key in fixed if getattr(config, key) != getattr(self._config, key))
        if changed:
            _log.warning("settings_need_restart", keys=changed)
        self._config = self._config.model_copy(update={key: getattr(config, key) for key in _RELOADED})
        self._answers.configure(self._config)
        self._wake.set()
        _log.info("settings_read")


def _now() -> datetime:
    return datetime.now(UTC)


async def _moving() -> Signs:
    """What the event loop asks moves as it asks."""
    return Signs(0.0, 0.0, 0.0)
