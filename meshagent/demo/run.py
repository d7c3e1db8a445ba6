"""The demo's story. Every line of the closing table was observed in this run; the exit code says whether all was right."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from meshagent.demo.stage import SERVICES, Stage, staged
from meshagent.demo.table import Row, closing_table, paragraph, shell

_PATIENCE_SECONDS = 3.0
Answer = tuple[int, dict[str, str], str]


@dataclass(slots=True)
class Story:
    """The stage, and what has been observed so far."""

    stage: Stage
    rows: list[Row]

    def run(self, *words: str) -> str:
        """Run a command and show it with what it prints."""
        said = self.stage.command(*words)
        shell(" ".join(("meshagent", *words)), said.out, said.err)
        return said.out

    def saw(self, step: str, expected: str, observed: str, *, took: float | None = None) -> None:
        """Keep one observation."""
        self.rows.append(Row(step, expected, observed, took, right=expected == observed))


def main(keep: bool = False) -> int:
    """Tell the story. Returns 0 when every observation was right, else 1."""
    began = time.monotonic()
    paragraph("A mesh on this machine: one agent, one Envoy, a store in a file, a CA. One moment.")
    with staged() as stage:
        story = Story(stage, [])
        _register(story)
        for chapter in (_denied, _allowed, _by_request, _cut):
            chapter(story)
        closing_table(story.rows, time.monotonic() - began)
        if keep:
            _play(stage)
    return 0 if all(row.right for row in story.rows) else 1


def _register(story: Story) -> None:
    """Three services, and a fourth that only calls."""
    ports = story.stage.ports
    paragraph("Three services run here as processes of their own. Each is registered with a few lines of YAML:")
    upstreams = {"web": ("payments", "ledger"), "reporting": ("ledger",)}
    protocols = {name: kind for kind, name in SERVICES} | {"reporting": "http"}
    texts = []
    for name, protocol in protocols.items():
        calls = [f"{{service: {to}, local_port: {ports[f'{name}>{to}']}}}" for to in upstreams.get(name, ())]
        texts.append(f"name: {name}\nport: {ports[name]}\nprotocol: {protocol}\nupstreams: [{', '.join(calls)}]\n")
    file = story.stage.directory / "services.yaml"
    file.write_text("---\n".join(texts))
    story.run("up", str(file))


def _denied(story: Story) -> None:
    """Default deny, with a reason."""
    paragraph("Nobody may call anybody until you say so. web calls payments through its sidecar:")
    status, headers, body = story.stage.get("web>payments")
    shell(f"curl -i http://127.0.0.1:{story.stage.ports['web>payments']}/      # as web", f"HTTP {status}\n{body}", "")
    story.saw(
        "web calls payments, no intention yet",
        "403, refused: intention",
        f"{status}, refused: {headers.get('x-mesh-refused')}",
    )
    said = story.run("explain", "web", "payments", "GET", "/")
    story.saw("explain says why", "default is deny", "default is deny" if "default is deny" in said else said)


def _allowed(story: Story) -> None:
    """An intention, and who the peer is."""
    paragraph("One intention, in force at once, on open connections too:")
    story.run("intention", "allow", "web", "payments")
    took, (status, _, body) = _until(lambda: story.stage.get("web>payments"), lambda answer: answer[0] == 200)
    shell(f"curl http://127.0.0.1:{story.stage.ports['web>payments']}/", body, "")
    story.saw("web calls payments after `intention allow`", "200", str(status), took=took)
    paragraph("payments did not take web's word for it: its sidecar read the name in the certificate.")
    caller = json.loads(body)["caller"] if status == 200 else ""
    name = caller.partition("URI=")[2]
    story.saw("who called, by its certificate", "spiffe://mesh.internal/svc/web", name)


def _by_request(story: Story) -> None:
    """An L7 rule."""
    paragraph("Now only GET below /reports:")
    story.run("intention", "allow", "web", "payments", "--method", "GET", "--path", "/reports")
    took, _ = _until(lambda: story.stage.get("web>payments", "/admin"), lambda answer: answer[0] == 403)
    for method, path, expected in (
        ("GET", "/reports/2026", 200),
        ("GET", "/admin", 403),
        ("POST", "/reports/2026", 403),
    ):
        status, _, _ = story.stage.get("web>payments", path, method)
        shell(f"curl -X {method} http://127.0.0.1:{story.stage.ports['web>payments']}{path}", f"HTTP {status}", "")
        story.saw(f"{method} {path}", str(expected), str(status), took=took if path == "/admin" else None)


def _cut(story: Story) -> None:
    """A deny cuts a live TCP connection, and only that source's."""
    paragraph("ledger speaks plain TCP. web and reporting each hold a connection to it open:")
    story.run("intention", "allow", "web", "ledger")
    story.run("intention", "allow", "reporting", "ledger")
    web = _connected(story.stage, "web>ledger")
    reporting = _connected(story.stage, "reporting>ledger")
    paragraph("The deny ends what is already open, not only what comes next:")
    began = time.monotonic()
    story.run("intention", "deny", "web", "ledger")
    web.settimeout(_PATIENCE_SECONDS)
    try:
        ended = "cut" if web.recv(10) == b"" else "still open"
    except ConnectionResetError:
        ended = "cut"
    except TimeoutError:
        ended = "still open"
    story.saw("web's open connection to ledger after the deny", "cut", ended, took=time.monotonic() - began)
    story.saw("reporting's open connection to ledger", "echoes", "echoes" if _echoes(reporting) else "broken")
    web.close()
    reporting.close()


def _connected(stage: Stage, pair: str) -> socket.socket:
    """An open connection on which the echo has answered."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        connection = stage.dial(pair)
        if _echoes(connection) or time.monotonic() > until:
            return connection
        connection.close()


def _echoes(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"ping")
        return connection.recv(10) == b"ping"
    except OSError:
        return False


def _until(call: Callable[[], Answer], right: Callable[[Answer], bool]) -> tuple[float, Answer]:
    """(seconds until the first right answer, the last answer)."""
    began = time.monotonic()
    while True:
        answer = call()
        took = time.monotonic() - began
        if right(answer) or took > _PATIENCE_SECONDS:
            return took, answer


def _play(stage: Stage) -> None:
    """Leave it running until Ctrl-C."""
    exports = "\n".join(f"export {name}={value}" for name, value in stage.environment.items())
    tries = "meshagent status\nmeshagent intention list\nmeshagent intention allow web payments\nmeshagent services"
    paragraph("It goes on running until Ctrl-C. In another terminal:")
    shell("", f"{exports}\n{tries}\ncurl -i http://127.0.0.1:{stage.ports['web>payments']}/", "")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        paragraph("Ending.")
