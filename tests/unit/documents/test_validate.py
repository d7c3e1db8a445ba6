"""Pydantic's own steps (unions, discriminators, keys of mappings) stay out of the fields and words that people read."""

import enum
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from meshagent.documents.validate import Finding, model_words, validate


class Redirect(BaseModel, extra="forbid"):
    """One branch."""

    type: Literal["redirect"]
    status: int = 301


class HttpsOnly(BaseModel, extra="forbid"):
    """Another."""

    type: Literal["https"]
    port_number: int


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


Key = Annotated[str, Field(pattern="^[a-z]+$")]


class Toy(BaseModel, extra="forbid"):
    """Everything that leaves a mark in pydantic's locations."""

    limit: int | Literal["auto"] = 1
    action: Annotated[Redirect | HttpsOnly, Field(discriminator="type")] | None = None
    steps: tuple[Redirect | HttpsOnly, ...] = ()
    named: dict[Key, Redirect] = {}
    colour: Colour = Colour.RED
    ratio: float = Field(default=0.5, gt=0, lt=1)
    source: str = Field(default="", alias="from")


def findings(**data):
    found = validate(Toy, data)
    assert isinstance(found, tuple)
    return {finding.path: finding.message for finding in found}


def test_what_is_right_becomes_the_model():
    given = {"limit": "auto", "from": "x", "action": {"type": "https", "port_number": 1}, "colour": "blue"}
    toy = validate(Toy, given)
    assert toy == Toy.model_validate(given)


def test_branches_of_a_union_are_one_finding_that_names_each():
    assert findings(limit="atuo") == {("limit",): "must be a whole number or auto, not 'atuo' (did you mean auto?)"}


def test_a_discriminator_leaves_no_step_in_the_field():
    assert findings(action={"type": "redirect", "status": "x"}) == {
        ("action", "status"): "must be a whole number, not 'x'"
    }
    assert findings(action={"type": "https"}) == {("action", "port_number"): "is missing"}
    assert findings(action={"type": "https", "port_number": 1, "portNumber": 2}) == {
        ("action", "portNumber"): "is not a field of redirect or https only (did you mean port_number?)"
    }


def test_a_wrong_or_absent_tag_is_a_finding_of_its_own_field():
    assert findings(action={"type": "http"})[("action", "type")].startswith("must be one of redirect, https")
    assert findings(action={"status": 1}) == {("action", "type"): "is missing"}


def test_models_in_lists_and_mappings_are_named_by_their_place():
    assert findings(named={"a": {"type": "redirect", "state": 1}}) == {
        ("named", "a", "state"): "is not a field of redirect (did you mean status?)"
    }
    assert findings(named={"A": {"type": "redirect"}}) == {("named", "A"): "must look like ^[a-z]+$, not 'A'"}


def test_enums_bounds_and_aliases_are_told_in_plain_words():
    assert findings(colour="blu") == {("colour",): "must be one of red, blue, not 'blu' (did you mean blue?)"}
    assert findings(ratio=0) == {("ratio",): "must be more than 0, not 0"}
    assert findings(ratio=1.5) == {("ratio",): "must be less than 1, not 1.5"}
    assert findings(form="x") == {("form",): "is not a field of toy (did you mean from?)"}


def test_text_may_stand_for_a_number_only_where_that_is_asked_for():
    assert validate(Redirect, {"type": "redirect", "status": "302"}) == (
        Finding(("status",), "must be a whole number, not '302' (without quotes)"),
    )
    assert validate(Redirect, {"type": "redirect", "status": "302"}, strict=False) == Redirect(
        type="redirect", status=302
    )


def test_a_model_is_named_in_plain_words():
    assert model_words(HttpsOnly) == "https only"
