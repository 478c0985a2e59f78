"""Configurations: validation, round trip, key, overrides."""

import dataclasses
import json

import pytest

from rsas import InputError, TrainConfig


def test_round_trip_through_json():
    config = TrainConfig(hidden=(300, 100), mean=(0.5,), sparsity=0.75, seed=3, dataset="mnist")
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_is_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().lr = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        TrainConfig("digits")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sparsity": 1.5}, r"sparsity=1.5: expected a number in \[0, 1\)"),
        ({"sparsity": -0.1}, r"sparsity=-0.1: expected a number in \[0, 1\)"),
        ({"sparsity": float("nan")}, r"sparsity=nan: expected a number in \[0, 1\)"),
        ({"measure_lr": 0.0}, r"measure_lr=0.0: expected a number in \(0, 1\]"),
        ({"epochs": 0}, r"epochs=0: expected an integer in \[1, "),
        ({"epochs": 2.5}, r"epochs=2.5: expected an integer"),
        ({"epochs": True}, r"epochs=True: expected an integer"),
        ({"lr": "fast"}, r"lr='fast': expected a number"),
        ({"hidden": 300}, r"hidden=300: expected a list of integers"),
        ({"hidden": (300, 0)}, r"hidden=\[300, 0\]: every width must be at least 1"),
        ({"std": (1.0, 0.0)}, r"std=\[1.0, 0.0\]: every value must be above 0"),
        (
            {"method": "magic"},
            r"method='magic': expected one of reinforced, dense, static, noise",
        ),
        ({"count_first_loss": 1}, r"count_first_loss=1: expected a true or false value"),
        ({"exclude": "fc1"}, r"exclude='fc1': expected a list of texts, such as fc1,features"),
        ({"exclude": (1,)}, r"exclude=\(1,\): expected a list of texts"),
        ({"layer_densities": {"fc1": "x"}}, r"layer_densities=.*: expected a mapping of texts to"),
        ({"layer_densities": [["fc1"]]}, r"layer_densities=.*: expected a mapping of texts to"),
        ({"layer_densities": {"fc1": 0}}, r"layer_densities={'fc1': 0.0}: every density must be"),
        ({"distribution": "map"}, r"distribution='map': needs layer_densities, such as"),
        ({"stem": "small"}, r"stem='small': only resnet18 has it"),
    ],
)
def test_a_bad_value_is_named_with_what_would_be_right(fields, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**fields)


def test_an_unknown_field_is_named_with_the_closest_one():
    with pytest.raises(InputError, match="unknown field 'sparcity'.*did you mean 'sparsity'"):
        TrainConfig.from_dict({"sparcity": 0.5})


def test_integers_become_floats_and_lists_tuples():
    config = TrainConfig(sparsity=0, hidden=[30, 20])
    assert (config.sparsity, config.hidden) == (0.0, (30, 20))
    assert isinstance(config.sparsity, float)
    assert config == TrainConfig(sparsity=0.0, hidden=(30, 20))


def test_override_parses_by_the_type_of_the_field():
    texts = ["epochs=5", "hidden=300,100", "sparsity=.5", "method=static", "count_first_loss=True"]
    config = TrainConfig().override(texts)
    assert config == TrainConfig(
        epochs=5, hidden=(300, 100), sparsity=0.5, method="static", count_first_loss=True
    )
    assert TrainConfig().override(["hidden=[]", "lr=1e-3"]) == TrainConfig(hidden=(), lr=1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs", "expected NAME=VALUE"),
        ("epochs=", "epochs='': expected an integer"),
        ("epochs=five", "epochs='five': expected an integer"),
        ("hidden=300,x", "hidden='300,x': expected a list of integers"),
        pytest.param("hidden=" + "[" * 20_000, "expected a list of integers", id="deep"),
        ("nothing=1", "unknown field 'nothing'"),
    ],
)
def test_override_refuses(text, message):
    with pytest.raises(InputError, match=message):
        TrainConfig().override([text])


def test_layer_densities_keep_their_order():
    """The first pattern that fits counts, so two orders are two configurations."""
    one = TrainConfig(distribution="map", layer_densities={"fc1": 0.1, "*": 1})
    two = TrainConfig(distribution="map", layer_densities={"*": 1, "fc1": 0.1})
    assert one.layer_densities == (("fc1", 0.1), ("*", 1.0))
    assert one != two and one.to_dict() != two.to_dict()
    for config in (one, two):
        assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_patterns_and_mappings_from_the_command_line():
    config = TrainConfig().override(
        ["exclude=fc2, conv*", "distribution=erk", 'layer_densities={"fc1": 0.1, "*": 1}']
    )
    assert config.exclude == ("fc2", "conv*")
    assert config.layer_densities == (("fc1", 0.1), ("*", 1.0))
    assert TrainConfig().override(['include=["a,b"]']).include == ("a,b",)
    with pytest.raises(InputError, match="layer_densities='fc1': expected a mapping"):
        TrainConfig().override(["layer_densities=fc1"])
