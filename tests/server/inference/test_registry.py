"""The registry of models: several versions of one name, labels, the default, and what calls for others are told."""

from unittest.mock import Mock

import pytest
from resonnx_server.access.caller import OPEN_ROLES, Caller, Role
from resonnx_server.errors import ModelRefused, NotFound, ServerError, Unavailable, VersionNotFound
from resonnx_server.inference.registry import Model, Models, Refusal
from resonnx_server.readiness import health


def _model(name: str, version: int, *, paused: bool = False) -> Model:
    model = Mock(Model, engine=Mock(is_paused=paused))
    model.name, model.version = name, version
    return model


@pytest.fixture
def models() -> Models:
    found = Models(loading=False)
    for version in (1, 3, 2):
        found.add(_model("digits", version))
    found.label("digits", {"canary": 3, "old": 1, "gone": 9})
    return found


def _error(models: Models, version: int | str, name: str = "digits") -> ServerError:
    with pytest.raises(ServerError) as told:
        models.get(name, version)
    return told.value


@pytest.mark.parametrize(
    ("asked", "answered"),
    [(0, 3), ("", 3), ("0", 3), (1, 1), (2, 2), ("2", 2), ("canary", 3), ("old", 1)],
)
def test_a_version_is_a_number_or_a_label(models: Models, asked: int | str, answered: int) -> None:
    assert models.get("digits", asked).version == answered


def test_versions_and_labels_that_there_are_not(models: Models) -> None:
    assert str(_error(models, 4)) == "model 'digits' has no version 4; versions 1, 2, 3 are served"
    assert type(_error(models, "gone")) is VersionNotFound
    told = "version 'stable' of model 'digits' is neither a number nor a label; its labels are canary, gone, old"
    assert str(_error(models, "stable")) == told
    assert type(_error(models, "9" * 19)) is VersionNotFound
    assert type(_error(models, "canary", "scenes")) is NotFound


def test_the_label_stable_is_the_default_and_no_other_version_stands_in_for_it(models: Models) -> None:
    models.label("digits", {"stable": 2, "canary": 3})
    assert models.get("digits").version == 2
    models.refuse(Refusal("digits", 2, "a run hung", was_served=True))
    assert type(_error(models, 0)) is Unavailable
    assert type(_error(models, "stable")) is Unavailable
    assert models.get("digits", "canary").version == 3
    models.label("digits", {})
    assert models.get("digits").version == 3


def test_the_highest_version_that_is_left_is_the_default(models: Models) -> None:
    models.forget("digits", 3)
    assert models.get("digits").version == 2
    models.refuse(Refusal("digits", 4, "it is damaged"))
    assert models.get("digits").version == 2
    assert type(_error(models, 4)) is ModelRefused
    models.add(_model("digits", 4))
    assert models.get("digits").version == 4
    assert not models.refused


def test_a_strict_server_stays_ready_while_a_version_of_each_model_serves(models: Models) -> None:
    models.strict = True
    models.refuse(Refusal("digits", 4, "it is damaged"))
    assert models.is_ready
    models.refuse(Refusal("scenes", 1, "it is damaged"))
    assert not models.is_ready


def test_a_model_of_which_one_version_is_replaced_is_one_model(models: Models) -> None:
    again = _model("digits", 3)
    models.add(again)
    assert models.get("digits") is again
    assert models.is_default(again)
    assert [model.version for model in models] == [1, 2, 3]


def test_health_tells_of_models_versions_and_labels(models: Models) -> None:
    models.add(_model("digits", 2, paused=True))
    models.expect({"digits": 4, "scenes": 1})
    assert health(models) == {
        "digits": True,
        "digits:1": True,
        "digits:2": False,
        "digits:3": True,
        "digits:4": False,
        "digits:canary": True,
        "digits:old": True,
        "digits:gone": False,
        "scenes": False,
        "scenes:1": False,
    }


def test_errors_name_only_what_a_caller_may_read(models: Models) -> None:
    infer, some = (
        Caller("key:infer", frozenset({Role.INFER})),
        Caller("key:some", OPEN_ROLES, models=frozenset({"digits"})),
    )
    for name, version, caller, told in (
        ("nobody", 0, infer, "there is no such model"),
        ("nobody", 0, some, "there is no such model"),
        ("nobody", 0, Caller("ip:::1", OPEN_ROLES), "model 'nobody' is not in the repository, which has digits"),
        ("digits", 4, infer, "there is no such version"),
        ("digits", 4, some, "model 'digits' has no version 4; versions 1, 2, 3 are served"),
    ):
        with pytest.raises(NotFound) as error:
            models.find(name, version, caller=caller)
        assert str(error.value) == told
        assert type(error.value) is (VersionNotFound if version else NotFound)
