"""What a person reads at the end."""

from __future__ import annotations

from meshagent.demo.table import Row, closing_table, paragraph, shell


def test_a_row_is_right_when_what_was_seen_is_what_had_to_be():
    assert Row("GET /", "403", "403").right and not Row("GET /", "403", "200").right


def test_in_a_pipe_every_observation_is_one_whole_line(capsys):
    name = "spiffe://mesh.internal/svc/" + "a" * 60
    closing_table(
        [Row("who called", name, name), Row("GET /admin", "403", "200", 0.0042), Row("x", "y", "y", 0)], 1.234
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["ok", "who", "called", name, name] in lines
    assert ["WRONG", "GET", "/admin", "403", "200", "4"] in lines
    assert ["ok", "x", "y", "y", "<1"] in lines
    assert lines[-1][:7] == ["2", "of", "3", "right,", "in", "1.2", "s."]


def test_nothing_printed_is_taken_for_markup(capsys):
    paragraph("[bold]not bold[/bold]")
    shell("cat x", "[red]a[/]", "b")
    closing_table([Row("[/x]", "[a]", "[a]")], 0)
    said = capsys.readouterr().out
    for text in ("[bold]not bold[/bold]", "  $ cat x", "    [red]a[/]", "    b", "[/x]", "[a]"):
        assert text in said
