"""What a rollout document may say."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from meshagent.model.rollout import Rollout

PLAIN = {"name": "payments", "base": "v1", "to": "v2"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"to": "v1"}, "base and to are both v1"),
        ({"steps": [5, 50]}, "the last must be 100"),
        ({"steps": [50, 50, 100]}, "more than the one before"),
        ({"steps": [0, 100]}, "greater than or equal to 1"),
        ({"steps": []}, "at least 1"),
        ({"every": "500ms"}, "between 1s and 720h"),
        ({"max_p99": "0s"}, "between 1ms and 1h"),
        ({"max_error_rate": 100}, "less than 100"),
        ({"min_requests": 0}, "greater than or equal to 1"),
        ({"state": "done"}, "Input should be"),
        ({"from": "v1"}, "Extra inputs"),
    ],
)
def test_nonsense_is_refused(more, words):
    with pytest.raises(ValidationError, match=words):
        Rollout.model_validate(PLAIN | more)


def test_another_id_or_other_subsets_are_another_rollout_and_other_bars_are_not():
    plain = Rollout.model_validate(PLAIN)
    assert plain.run == Rollout.model_validate(PLAIN | {"max_error_rate": 5, "steps": [50, 100]}).run
    others = {Rollout.model_validate(PLAIN | more).run for more in ({"id": "b"}, {"to": "v3"}, {"base": "v0"})}
    assert plain.run not in others and len(others) == 3
