"""What is followed for a scope."""

from meshagent.store.base import Scope
from meshagent.store.consul_following import CROWD, queries_of

LISTED = {"keys": "", "separator": "/"}


def test_a_single_name_is_followed_with_its_content():
    assert queries_of(Scope.of(["a/"])) == {"a/": ("/v1/kv/a/", {"recurse": ""})}
    assert queries_of(Scope.of(["a"])) == {"a": ("/v1/kv/a", {})}
    assert queries_of(Scope.of([""])) == {"": ("/v1/kv/", {"recurse": ""})}


def test_of_several_names_each_is_followed_narrowly():
    assert queries_of(Scope.of(["a/", "b", "c/d"])) == {
        "a/": ("/v1/kv/a/", LISTED),
        "b": ("/v1/kv/b", {}),
        "c/d": ("/v1/kv/c/d", {}),
    }


def test_a_crowd_of_keys_in_one_folder_is_followed_as_the_folder():
    crowd = [f"c/service/{number}" for number in range(CROWD)]
    assert queries_of(Scope.of([*crowd, "c/mesh"])) == {
        "c/service//": ("/v1/kv/c/service", LISTED),
        "c/mesh": ("/v1/kv/c/mesh", {}),
    }
    assert set(queries_of(Scope.of(crowd[1:]))) == set(crowd[1:])


def test_a_crowd_at_the_root_is_followed_key_by_key():
    crowd = {f"k{number}" for number in range(CROWD)}
    assert set(queries_of(Scope.of(crowd))) == crowd


def test_nothing_is_followed_for_nothing():
    assert queries_of(Scope.of([])) == {}
