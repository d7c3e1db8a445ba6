"""Rollouts in the store: who follows the documents, and what of the words of hosts counts."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from meshagent.model.rollout import Bucket, Counts, Progress
from meshagent.state.fold import Fold
from meshagent.state.keys import Interest
from meshagent.state.progress import (
    MeasuredRecord,
    ProgressShelf,
    put_measured,
    put_progress,
    serving_of,
    sums_of,
)
from meshagent.state.waiting import _concerns
from meshagent.store.base import Changes, Entry, Put
from tests.unit.state.test_fold import KEYS, changes, manifest, record

ROLLOUT = {"kind": "rollout", "name": "web", "base": "v1", "to": "v2"}
PLACE = KEYS.document("rollout", "web")
NOW = datetime(2026, 11, 21, tzinfo=UTC)
PROGRESS = Progress(run="/v1/v2", turn=2, phase="running", step=1, since=NOW, host="vm-1", why="well")


def stored(document=ROLLOUT, revision=1):
    return {KEYS.manifest: manifest(revision), PLACE: record(document, revision)}


def entry(put, revision=7):
    return Entry(put.key, put.value, revision)


@pytest.mark.parametrize("interest", [Interest(frozenset({"web"})), Interest(upstreams=frozenset({"web"}))])
def test_who_runs_or_calls_a_service_follows_its_rollout_by_one_watch_for_all(interest):
    assert interest.wants(KEYS, PLACE) and not interest.wants(KEYS, KEYS.document("rollout", "other"))
    assert KEYS.rollout_documents in interest.prefixes(KEYS) and PLACE not in interest.prefixes(KEYS)
    fold = Fold(KEYS, interest)
    fold.add(changes(stored(), full=True))
    assert fold.world.rollouts["web"].thing.to == "v2"
    fold.narrow(Interest(frozenset({"other"})))
    assert fold.world.rollouts == {}


def test_a_host_without_services_follows_none():
    assert KEYS.rollout_documents not in Interest().prefixes(KEYS)


def test_one_that_cannot_be_read_leaves_the_last_good_one_in_force_and_a_deleted_one_is_gone():
    fold = Fold(KEYS, Interest(frozenset({"web"})))
    fold.add(changes(stored(), full=True))
    fold.add(changes({KEYS.manifest: manifest(2), PLACE: b"{"}))
    assert fold.world.rollouts["web"].thing.to == "v2" and "last good" in fold.problems[PLACE]
    fold.add(changes(stored(None, 3)))
    assert fold.world.rollouts == {}


def test_a_change_concerns_the_hosts_and_the_callers_of_the_service():
    changed = [("rollout", "web")]
    assert _concerns(changed, ["web"], [], []) and _concerns(changed, [], ["web"], [])
    assert not _concerns(changed, ["api"], ["db"], ["web"])


def test_the_shelf_has_the_last_word_and_what_each_host_counted():
    shelf = ProgressShelf(KEYS)
    expect, put = put_progress(KEYS, "web", PROGRESS, 3)
    assert (expect.key, expect.revision) == (put.key, 3)
    counts = {"v2": Counts(requests=4, failed=1, times=(Bucket(upto=5, count=4),))}
    rows = [
        put_measured(KEYS, "web", host, MeasuredRecord(run="/v1/v2", turn=turn, serving=["v2"], counts=counts), "lease")
        for host, turn in (("vm-1", 2), ("vm-2", 2), ("vm-3", 1))
    ]
    shelf.add(Changes(7, tuple(map(entry, (put, *rows))), full=True))
    told = shelf.told("web")
    assert (told.progress, told.revision, set(told.measured)) == (PROGRESS, 7, {"vm-1", "vm-2", "vm-3"})
    records = told.of("/v1/v2", 2)
    assert (sums_of(records)["v2"].requests, sums_of(records)["v2"].timed, serving_of(records)) == (8, 8, {"v2"})
    shelf.add(Changes(8, (), (KEYS.measured("web", "vm-1"), KEYS.progress("web"))))
    assert shelf.told("web").progress is None and shelf.told("web").revision == 0
    assert set(shelf.told("web").measured) == {"vm-2", "vm-3"}
    shelf.add(Changes(9, (), full=True))
    assert shelf.told("web").measured == {}


@pytest.mark.parametrize(
    "value",
    [b"", b"{}", b'{"v": 1}', b'{"v": 2, "run": "a"}', b'{"v": 1, "run": "a", "turn": 1, "phase": "over"}', b"[1]"],
)
def test_what_cannot_be_read_is_as_if_it_were_not_there_and_is_told(value):
    shelf = ProgressShelf(KEYS)
    for key in (KEYS.progress("web"), KEYS.measured("web", "vm-1")):
        shelf.add(Changes(4, (Entry(key, value, 4),)))
        assert "as if it were not there" in shelf.problems[key]
    assert shelf.told("web").progress is None and shelf.told("web").revision == 4
    assert shelf.told("web").measured == {}
    (_, put) = put_progress(KEYS, "web", PROGRESS, 4)
    assert isinstance(put, Put)
    shelf.add(Changes(5, (entry(put),)))
    assert KEYS.progress("web") not in shelf.problems


def test_other_keys_are_no_word_on_a_rollout():
    for rest in ("web", "web/x", "web/progress/x", "web/measured/vm-1/x", "web/other/vm-1"):
        assert KEYS.parse_rollout(f"{KEYS.rollouts}{rest}") is None
    assert KEYS.parse_rollout(KEYS.report("vm-1")) is None
