"""The page about the authority is true."""

from __future__ import annotations

import re
from pathlib import Path

from meshagent.authority.app import make_app
from meshagent.authority.metrics import Metrics
from meshagent.config.authority import AuthorityConfig
from meshagent.documents.decode import decode_one

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/authority.md").read_text()
EVENT = re.compile(r'_log\.(?:info|warning|error|exception)\(\s*"(\w+)"')
_KNOWN_FAULTS = {"metrics_not_served", "ledger_not_kept", "request_failed", "authority_stopping"}


def test_every_metric_is_listed_with_its_type():
    metrics = Metrics()
    metrics.signed.labels("host").inc()
    metrics.refused.labels("rate").inc()
    served = re.findall(r"^# TYPE (\S+) (\S+)$", metrics.page().decode(), re.MULTILINE)
    listed = re.findall(r"^\| `(meshagent_\w+)` \| (\w+) \|", PAGE, re.MULTILINE)
    assert set(listed) == {each for each in served if not each[0].endswith("_created")}


def test_every_example_is_one():
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        assert not decode_one(block, "docs/authority.md", AuthorityConfig).problems


def test_every_event_is_listed():
    code = "".join(path.read_text() for path in (ROOT / "meshagent/authority").glob("*.py"))
    events = set(EVENT.findall(code)) - _KNOWN_FAULTS
    assert events and not {each for each in events if f"`{each}`" not in PAGE}


def test_every_path_is_listed():
    class Nobody:
        """Answers nothing: the paths alone are asked for."""

        def roots(self) -> dict[str, str]:
            return {}

    app = make_app(Nobody(), tuple)  # type: ignore[arg-type]
    served = {(each.method, each.resource.canonical) for each in app.router.routes() if each.resource}
    listed = set(re.findall(r"^\| `(GET|POST) (/v1/\w+)`", PAGE, re.MULTILINE))
    assert listed == {each for each in served if each[0] != "HEAD"}
