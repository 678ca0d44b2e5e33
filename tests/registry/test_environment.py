import platform

import msgspec
import numpy as np
import polars as pl
import sklearn

from velodrome.registry.environment import Environment, describe_environment
from velodrome.store.ledger import digest_record


def describe(**changed: object) -> Environment:
    facts: dict[str, object] = {"device": "cpu", "capability": "aten:AVX2", "threads": 2}
    return describe_environment(("scipy",), **facts | changed)  # type: ignore[arg-type]


def test_versions_are_those_of_the_imported_libraries() -> None:
    environment = describe()
    assert environment.packages["numpy"] == np.__version__
    assert environment.packages["polars"] == pl.__version__
    assert environment.packages["scikit-learn"] == sklearn.__version__
    assert set(environment.packages) == {"velodrome", "numpy", "polars", "scikit-learn", "scipy"}
    assert platform.python_version() in environment.python


def test_the_same_environment_has_the_same_digest_and_another_machine_another() -> None:
    assert digest_record(describe()) == digest_record(describe())
    others = [describe(threads=3), describe(capability="aten:AVX512"), describe(device="cuda")]
    assert len({digest_record(each) for each in [describe(), *others]}) == 4


def test_instruction_sets_are_those_that_numpy_dispatches_to() -> None:
    extensions = np.show_config(mode="dicts")["SIMD Extensions"]
    assert set(describe().simd) == {*extensions.get("baseline", []), *extensions.get("found", [])}


def test_a_library_that_is_not_installed_is_recorded_as_such() -> None:
    environment = describe_environment(("no-such-library",), device="cpu", capability="", threads=1)
    assert environment.packages["no-such-library"] == "not installed"


def test_it_reads_back_as_it_was() -> None:
    environment = describe()
    assert msgspec.json.decode(msgspec.json.encode(environment), type=Environment) == environment
