import json

from velodrome.data.fields import Field, as_json, width


def test_fields_as_json_are_plain_json_in_order() -> None:
    fields = [Field("b", "float32", shape=(3,)), Field("a", "int64", cardinality=4)]
    plain = as_json(fields)
    assert json.loads(json.dumps(plain)) == plain
    assert [entry["name"] for entry in plain] == ["b", "a"]


def test_width_counts_the_columns_of_a_row() -> None:
    assert width(Field("a", "float32")) == 1
    assert width(Field("a", "float32", shape=(3,))) == 3
    assert width(Field("a", "float32", shape=(2, 5))) == 10
