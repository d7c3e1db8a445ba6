"""The way in: help, guesses, errors, output forms, and the end of a pipe. A few as real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import meshagent
from meshagent import __version__
from meshagent.cli.output import Table, cell, plain_table, printable
from meshagent.cli.session import shown
from tests.unit.cli.conftest import Commands


@pytest.fixture
def commands(env):
    return Commands(env)


def surroundings(env):
    """The environment of a process that runs this meshagent, wherever its directory is."""
    return os.environ | env | {"PYTHONPATH": str(Path(meshagent.__file__).parents[1])}


def process(env, *args, **options):
    command = [sys.executable, "-m", "meshagent", *args]
    return subprocess.Popen(
        command, env=surroundings(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_help_lists_every_command_in_the_order_of_need(commands):
    lines = commands.run("--help").stdout.partition("Commands:")[2].split("\n")
    names = [line.split()[0] for line in lines if line.strip()]
    assert names == [
        "demo",
        "init",
        "join",
        "token",
        "agent",
        "up",
        "down",
        "services",
        "intention",
        "policy",
        "rollout",
        "explain",
        "status",
        "ui",
        "doctor",
        "dns",
        "top",
        "graph",
        "tap",
        "proxy",
        "metrics",
        "authority",
        "redirect",
        "systemd",
        "ca",
        "store",
    ]


def imported(env, args, names):
    """Which of these packages a command has imported at its end."""
    code = f"""
import sys
from meshagent.cli.main import cli
cli.main({args!r}, standalone_mode=False)
print(sorted({{name.split(".")[0] for name in sys.modules}} & {names!r}))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], env=surroundings(env), capture_output=True, text=True, check=True
    )
    return ran.stdout.splitlines()[-1]


def test_help_imports_no_command_and_no_model(env):
    names = {"pydantic", "rich", "yaml", "structlog", "asyncio", "aiohttp"}
    assert imported(env, ["--help"], names) == "[]"


def test_an_intention_imports_nothing_heavy(mesh):
    names = {"rich", "yaml", "aiohttp", "grpc", "cryptography", "envoy"}
    assert imported(mesh.env, ["intention", "allow", "web", "payments"], names) == "[]"


def test_without_a_command_there_is_help_on_stderr_and_exit_2(commands):
    for group in ((), ("intention",), ("policy",), ("proxy",)):
        result = commands.run(*group, code=2)
        assert result.stdout == ""
        assert "Usage: meshagent" in result.stderr
        assert "Commands:" in result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["intenton"], "No such command 'intenton'. Did you mean intention?"),
        (["policy", "aply"], "No such command 'aply'. Did you mean apply?"),
        (["services", "tll"], "Did you mean ttl?"),
        (["status", "--ouput", "json"], "--output"),
        (["-o", "jsn", "status"], "'jsn' is not one of"),
        (["xyzzy"], "No such command 'xyzzy'."),
    ],
)
def test_what_is_mistyped_is_guessed(commands, args, words):
    result = commands.run(*args, code=2)
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert "\nnext: meshagent" in result.stderr


def test_version(commands):
    assert commands.run("--version").stdout == f"meshagent {__version__}\n"


def test_options_stand_before_or_after_the_command_and_the_nearer_wins(mesh, tmp_path):
    assert json.loads(mesh.run("-o", "json", "intention", "list").stdout) == []
    assert json.loads(mesh.run("-o", "yaml", "intention", "list", "-o", "json").stdout) == []
    url = mesh.env.pop("MESHAGENT_STORE")
    assert (
        json.loads(
            mesh.run("--store", f"sqlite://{tmp_path}/no.db", "intention", "list", "--store", url, "-o", "json").stdout
        )
        == []
    )


def test_the_store_is_found_by_option_environment_file_and_default(mesh, tmp_path, monkeypatch):
    url = mesh.env.pop("MESHAGENT_STORE")
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tmp_path / "agent.yaml"
    config.write_text(f"store: {url}\n")
    mesh.run("intention", "list", "--config", str(config))
    mesh.env["MESHAGENT_CONFIG"] = str(config)
    mesh.run("intention", "list")
    config.write_text(f"store: sqlite://{tmp_path}/other.db\n")
    assert "other.db" in mesh.run("intention", "list", code=4).stderr
    mesh.run("intention", "list", "--store", url)
    config.write_text("stoer: x\n")
    assert "did you mean store?" in mesh.run("intention", "list", code=3).stderr


def test_reading_makes_no_store(commands, tmp_path):
    result = commands.run("intention", "list", code=4)
    assert "error: there is no store at sqlite://" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_a_mesh_says_how_to_get_one(mesh, tmp_path):
    import asyncio

    from meshagent.store.sqlite import open_sqlite

    async def make():
        await (await open_sqlite(tmp_path / "empty.db")).close()

    asyncio.run(make())
    result = mesh.run("intention", "list", "--store", f"sqlite://{tmp_path}/empty.db", code=1)
    assert "there is no mesh in this store" in result.stderr
    assert "next: start `meshagent agent` once" in result.stderr


def test_an_unknown_kind_of_store_is_a_usage_error(commands):
    assert "error: " in commands.run("intention", "list", "--store", "redis://h", code=2).stderr


def test_what_others_wrote_cannot_move_the_cursor(mesh):
    mesh.run("intention", "allow", "web", "payments", "--reason", "\x1b[2Jgone\u202e\nforged line")
    shown_rows = mesh.run("intention", "list").stdout.splitlines()
    assert len(shown_rows) == 2
    assert "\\x1b[2Jgone\\u202e forged line" in shown_rows[1]
    for command in (("intention", "list", "-o", "json"), ("intention", "list", "-o", "yaml"), ("policy", "get")):
        seen = mesh.run(*command).stdout
        assert "forged" in seen
        assert printable(seen) == seen


def test_what_the_locale_cannot_write_is_escaped(mesh):
    mesh.run("intention", "allow", "web", "payments", "--reason", "Prüfung →")
    command = [sys.executable, "-m", "meshagent", "intention", "list"]
    env = surroundings(mesh.env) | {"PYTHONIOENCODING": "latin-1"}
    ran = subprocess.run(command, env=env, capture_output=True, check=True)
    assert "Prüfung \\u2192" in ran.stdout.decode("latin-1")
    assert "Prüfung →" in mesh.run("intention", "list").stdout


def test_colour_is_for_terminals_only(commands):
    assert "\x1b" not in commands.run("intenton", code=2).stderr


def test_a_reader_that_goes_away_is_no_crash(mesh):
    mesh.register("long", meta={str(number): "x" * 2000 for number in range(40)})
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "meshagent", "services", "--all", "-o", "json"]
    ran = subprocess.run(
        command, env=surroundings(mesh.env), stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, "")


def test_a_full_disk_is_said(mesh):
    command = [sys.executable, "-m", "meshagent", "services", "--all"]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            command, env=surroundings(mesh.env), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ran.returncode == 1
    assert ran.stderr == "error: the output cannot be written: No space left on device\n"


def test_ctrl_c_ends_a_wait_at_once(mesh):
    mesh.report("vm-1", ["payments"], 1)
    running = process(mesh.env, "intention", "allow", "web", "payments", "--wait", "--timeout", "1m")
    assert running.stdout is not None
    assert "(revision 2)" in running.stdout.readline(), "the change is shown before the wait"
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=20)
    assert running.returncode == 130
    assert (out, err) == ("", "\n"), "no traceback, and the prompt on a line of its own"


def on_terminal(env, *args):
    """What a person sees who runs a command on a terminal of 120 columns."""
    ours, theirs = os.openpty()
    terminal = {"TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-m", "meshagent", *args]
    ran = subprocess.run(command, env=surroundings(env | terminal), stdout=theirs, stderr=theirs, check=False)
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error of its own
        while chunk := os.read(ours, 65536):
            seen += chunk
    os.close(ours)
    return ran.returncode, seen.decode()


def test_a_terminal_gets_colour_unless_it_is_not_wanted(mesh):
    code, seen = on_terminal(mesh.env, "services", "--all")
    assert code == 0
    assert "\x1b[1mNAME" in seen
    assert [line.split()[0] for line in seen.splitlines()[1:]] == ["db", "payments", "web"]
    code, seen = on_terminal(mesh.env | {"NO_COLOR": "1"}, "intenton")
    assert (code, "\x1b" in seen) == (2, False)
    assert "\x1b[31m" in on_terminal(mesh.env, "intenton")[1]


def test_a_change_made_on_a_terminal_is_waited_for(mesh):
    mesh.report("vm-1", ["payments"], 2)
    seen = on_terminal(mesh.env, "intention", "allow", "web", "payments")[1]
    assert "web -> payments: allow (revision 2)" in seen
    assert "applied on 1 of 1 proxy in " in seen


def test_tables_and_texts():
    table = Table(("A", "LONG"), [["x", None], ["yyy", {"k": [1, True]}]])
    assert plain_table(table) == "A    LONG\nx\nyyy  k=1, yes"
    assert cell("a\nb") == "a b"
    assert printable("ok\n\x07\u2028é") == "ok\n\\x07\\u2028é"


def test_a_url_is_shown_without_what_somebody_put_into_it():
    assert shown("etcd://ann:secret@h1:2379,h2:2379") == "etcd://h1:2379,h2:2379"
    assert shown("sqlite:///var/lib/mesh.db") == "sqlite:///var/lib/mesh.db"
