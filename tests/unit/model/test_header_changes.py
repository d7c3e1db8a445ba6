"""Changes of headers are values: equal ones are one, whatever order they are written in."""

from __future__ import annotations

from meshagent.model.route import HeaderChanges, Headers, Target


def test_equal_changes_have_one_hash_so_that_defaults_are_shared():
    one, other = HeaderChanges(set={"x-a": "1", "x-b": "2"}), HeaderChanges(set={"x-b": "2", "x-a": "1"})
    assert one == other and hash(one) == hash(other)
    assert hash(Headers(request=one)) != hash(Headers(response=one))
    assert Target().headers is Target().headers
