"""The demo's story. Every line of the closing table was observed in this run; the exit code says whether all was right."""

from __future__ import annotations

import json
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from meshagent.demo.caller import Answer
from meshagent.demo.commits import Commits
from meshagent.demo.stage import SERVICES, UPSTREAMS, Said, Stage, finish, staged
from meshagent.demo.table import Row, closing_table, paragraph, shell

_PATIENCE_SECONDS = 10.0
_LOOK_AGAIN_SECONDS = 0.001
_WEB = "spiffe://mesh.internal/svc/web"
_HEALTH = {
    "http": "checks: [{{http: 'http://127.0.0.1:{port}/health', interval: 5s}}]\n",
    "tcp": "checks: [{{tcp: '127.0.0.1:{port}', interval: 5s}}]\n",
}


@dataclass(slots=True)
class Story:
    """The stage, when policy changed in the store, and what has been observed so far."""

    stage: Stage
    commits: Commits
    rows: list[Row] = field(default_factory=list)

    def run(self, *words: str, code: int = 0) -> str:
        """Run a command that is to end with `code`, show it with what it prints, and give what it printed on stdout."""
        return self._tell(words, finish(self.stage.start(*words)), code)

    def change(self, *words: str, effect: Callable[[], bool]) -> float | None:
        """Run a command that changes policy while looking for its effect.

        Returns the seconds from the commit to the effect, None when it was not seen or nothing was committed.
        """
        began = time.monotonic()
        command, seen = self.stage.start(*words), None
        while seen is None and time.monotonic() - began < _PATIENCE_SECONDS:
            if effect():
                seen = time.monotonic()
            else:
                time.sleep(_LOOK_AGAIN_SECONDS)
        self._tell(words, finish(command), 0)
        committed = self.commits.first_since(began)
        return None if seen is None or committed is None else max(seen - committed, 0.0)

    def saw(self, step: str, expected: str, observed: str, *, took: float | None = None) -> None:
        """Keep one observation."""
        self.rows.append(Row(step, expected, observed, took))

    def _tell(self, words: tuple[str, ...], said: Said, code: int) -> str:
        command = " ".join(("meshagent", *words))
        shell(command, said.out, said.err)
        if said.code != code:
            self.saw(command, f"exit {code}", f"exit {said.code}")
        return said.out


def main(keep: bool = False) -> int:
    """Tell the story. Returns 0 when every observation was right, else 1. Raises EnvoyFailed when no mesh comes up."""
    began = time.monotonic()
    paragraph("A mesh on this machine: one agent, one Envoy, a store in a file, a CA. One moment.")
    with staged() as stage, Commits(stage.environment["MESHAGENT_STORE"]) as commits:
        shell(f"meshagent agent --config {stage.config} &")
        story = Story(stage, commits)
        for chapter in (_register, _denied, _allowed, _by_request, _cut):
            try:
                chapter(story)
            except OSError as error:  # a port on which nobody listens is an observation too
                story.saw(chapter.__name__.strip("_"), "no error", str(error))
        closing_table(story.rows, time.monotonic() - began)
        right = all(row.right for row in story.rows)
        if not right:
            paragraph("The end of the agent's log:")
            shell("", stage.last_words())
        if keep:
            _play(stage)
    return 0 if right else 1


def _register(story: Story) -> None:
    """Three services, and a fourth that only calls."""
    ports = story.stage.ports
    paragraph("Three services run here as processes of their own. Each is registered with a few lines of YAML:")
    protocols = {name: kind for kind, name in SERVICES} | {"reporting": "http"}
    texts = []
    for name, protocol in protocols.items():
        calls = [f"{{service: {to}, local_port: {ports[f'{name}>{to}']}}}" for to in UPSTREAMS.get(name, ())]
        checks = "" if name == "reporting" else _HEALTH[protocol].format(port=ports[name])
        texts.append(
            f"name: {name}\nport: {ports[name]}\nprotocol: {protocol}\n{checks}upstreams: [{', '.join(calls)}]\n"
        )
    file = story.stage.directory / "services.yaml"
    file.write_text("---\n".join(texts))
    shell(f"cat {file}", texts[2])
    story.run("up", str(file))


def _denied(story: Story) -> None:
    """Default deny, with a reason."""
    paragraph("Nobody may call anybody until you say so. web calls payments through its sidecar:")
    with story.stage.call("web>payments") as web:
        answer = web.ask()
    shell(f"curl -i {_url(story, 'web>payments')}/      # as web", _shown(answer), answer.body)
    story.saw("web calls payments, no intention yet", "403, refused: intention", _refusal(answer))
    story.saw("the refusal names the caller", _WEB, str(_told(answer).get("caller", answer.body)))
    said = story.run("explain", "web", "payments", "GET", "/", code=5)
    story.saw("explain says why", "default is deny", "default is deny" if "default is deny" in said else said)


def _allowed(story: Story) -> None:
    """An intention, and who the peer is."""
    paragraph("One intention. web keeps the connection on which it was refused and goes on asking:")
    answers: list[Answer] = []
    with story.stage.call("web>payments") as web:

        def allowed() -> bool:
            answers.append(web.ask())
            return answers[-1].status == 200

        allowed()
        took = story.change("intention", "allow", "web", "payments", effect=allowed)
        connections = web.opened
    answer = answers[-1]
    shell(f"curl {_url(story, 'web>payments')}/", answer.body)
    story.saw("after `intention allow web payments`", "200", str(answer.status), took=took)
    others = sorted({str(each.status) for each in answers[:-1]})
    story.saw("what came before that 200", "403 alone", f"{', '.join(others)} alone")
    story.saw("on how many connections", "1", str(connections))
    paragraph("payments did not take web's word for it: its sidecar read the name in the certificate.")
    story.saw("who called, by its certificate", _WEB, str(_told(answer).get("caller", answer.body)))


def _by_request(story: Story) -> None:
    """An L7 rule."""
    paragraph("Now only GET below /reports:")
    with story.stage.call("web>payments") as web:
        took = story.change(
            *("intention", "allow", "web", "payments", "--method", "GET", "--path", "/reports"),
            effect=lambda: web.ask("/admin").status == 403,
        )
        for method, path, expected in (
            ("GET", "/admin", "403, refused: intention"),
            ("POST", "/reports/2026", "403, refused: intention"),
            ("GET", "/reports/2026", "200"),
        ):
            answer = web.ask(path, method)
            shell(f"curl -i -X {method} {_url(story, 'web>payments')}{path}", _shown(answer))
            story.saw(f"{method} {path}", expected, _refusal(answer), took=took if path == "/admin" else None)


def _cut(story: Story) -> None:
    """A deny cuts a live TCP connection, and only that source's."""
    paragraph("ledger speaks plain TCP. web and reporting each hold a connection to it open:")
    story.run("intention", "allow", "web", "ledger")
    story.run("intention", "allow", "reporting", "ledger")
    with ExitStack() as open_until_end:
        web = open_until_end.enter_context(_connected(story.stage, "web>ledger"))
        reporting = open_until_end.enter_context(_connected(story.stage, "reporting>ledger"))
        story.saw("both connections before the deny", "echo, echo", f"{_echo(web)}, {_echo(reporting)}")
        paragraph("The deny ends what is already open, not only what comes next, and nobody else's:")
        took = story.change("intention", "deny", "web", "ledger", effect=lambda: _ended(web))
        story.saw("web's open connection to ledger after the deny", "cut", "cut" if _ended(web) else "open", took=took)
        again = open_until_end.enter_context(story.stage.dial("web>ledger"))
        story.saw("web's next connection", "no echo", _echo(again))
        story.saw("reporting's open connection to ledger", "echo", _echo(reporting))


def _connected(stage: Stage, pair: str) -> socket.socket:
    """An open connection on which the echo has answered, or the last one tried."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        connection = stage.dial(pair)
        if _echo(connection) == "echo" or time.monotonic() > until:
            return connection
        connection.close()


def _echo(connection: socket.socket) -> str:
    try:
        connection.sendall(b"ping")
        return "echo" if connection.recv(10) == b"ping" else "no echo"
    except OSError:
        return "no echo"


def _ended(connection: socket.socket) -> bool:
    """Whether the peer has closed a connection on which nothing is on its way."""
    if not select.select([connection], [], [], 0)[0]:
        return False
    try:
        return connection.recv(10) == b""
    except OSError:
        return True


def _url(story: Story, pair: str) -> str:
    return f"http://127.0.0.1:{story.stage.ports[pair]}"


def _shown(answer: Answer) -> str:
    refused = answer.headers.get("x-mesh-refused")
    return f"HTTP {answer.status}" + (f"\nx-mesh-refused: {refused}" if refused else "")


def _refusal(answer: Answer) -> str:
    refused = answer.headers.get("x-mesh-refused")
    return f"{answer.status}, refused: {refused}" if refused else str(answer.status)


def _told(answer: Answer) -> dict[str, object]:
    """The JSON object of an answer; empty when it is none."""
    try:
        told = json.loads(answer.body)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _play(stage: Stage) -> None:
    """Leave it running until Ctrl-C."""
    exports = "\n".join(f"export {name}={value}" for name, value in stage.environment.items())
    tries = "meshagent status\nmeshagent services\nmeshagent intention list\nmeshagent intention allow web payments"
    stream = f"curl -iN http://127.0.0.1:{stage.ports['web>payments']}/stream      # then: meshagent intention deny web payments"
    paragraph("It goes on running until Ctrl-C. In another terminal:")
    shell("", exports, tries, stream)
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        paragraph("Ending.")
