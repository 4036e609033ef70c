"""The fields of a head by their names."""

import uuid

from sandkeeper.api.edge.connections.fields import first_fields
from sandkeeper.api.edge.subject import request_id


def test_of_a_field_that_came_twice_the_first_value_is_given() -> None:
    scope = {"headers": [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]}

    assert first_fields(scope) == {b"a": b"1", b"b": b"2"}
    assert first_fields(scope) is first_fields(scope)


def test_another_list_of_fields_is_laid_out_anew() -> None:
    scope = {"headers": [(b"origin", b"null"), (b"host", b"x")]}
    assert b"origin" in first_fields(scope)

    scope["headers"] = [(b"host", b"x")]
    copied = {**scope, "headers": [(b"host", b"y")]}

    assert first_fields(scope) == {b"host": b"x"}
    assert (first_fields(copied), first_fields(scope)) == ({b"host": b"y"}, {b"host": b"x"})


def test_ids_that_are_made_up_are_uuids_and_each_is_another() -> None:
    made = [request_id({"headers": []}) for _ in range(1000)]

    assert {uuid.UUID(one).version for one in made} == {4}
    assert {uuid.UUID(one).variant for one in made} == {uuid.RFC_4122}
    assert len(set(made)) == 1000
