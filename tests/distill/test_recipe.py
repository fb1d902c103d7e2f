"""Recipes: the published six, and what cannot be one."""

from __future__ import annotations

import json

import pytest

from runoff.contracts import InputError
from runoff.distill.recipe import RECIPES, Recipe, recipe


@pytest.mark.parametrize(
    ("name", "rate", "batch"),
    [
        ("ettin-17m", 2.4e-4, 1024),
        ("ettin-32m", 1.2e-4, 512),
        ("ettin-68m", 3e-5, 256),
        ("ettin-150m", 1.5e-5, 192),
        ("ettin-400m", 7e-6, 256),
        ("ettin-1b", 3e-6, 512),
    ],
)
def test_the_six_sizes_have_the_published_rates_and_batches(name, rate, batch):
    found = recipe(name)
    assert (found.learning_rate, found.global_batch) == (rate, batch)
    assert found.backbone == f"jhu-clsp/ettin-encoder-{name.removeprefix('ettin-')}"
    assert (found.warmup, found.every, found.keep, found.seed, found.epochs) == (0.03, 0.05, 5, 12, 1.0)
    assert (found.loss, found.group, found.pooling) == ({"mse": 1.0}, 1, "cls")


def test_every_recipe_is_json_and_comes_back_the_same():
    for found in RECIPES.values():
        fields = json.loads(json.dumps(found.as_dict()))
        assert Recipe(**{**fields, "frozen": tuple(fields["frozen"])}) == found


def test_an_unknown_recipe_is_named_with_the_nearest():
    with pytest.raises(InputError, match="Did you mean ettin-17m"):
        recipe("ettin-17")


def test_changes_that_are_not_given_leave_the_recipe():
    assert recipe("ettin-17m").but(learning_rate=None, epochs=0.5) == recipe("ettin-17m").but(epochs=0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"ranknet": 1.0}}, "group of 2 or more, got 1"),
        ({"loss": {"bce": 1.0}}, "got 'bce'"),
        ({"loss": {}}, "at least one loss"),
        ({"loss": {"mse": -1.0}}, "weight above 0"),
        ({"learning_rate": float("nan")}, "learning_rate, got nan"),
        ({"warmup": 1.5}, "share from 0 to 1 as warmup"),
        ({"global_batch": 0}, "global_batch of 1"),
        ({"group": 5}, "whole groups"),
        ({"pooling": "max"}, "cls or mean"),
        ({"frozen": ("layers",)}, "got 'layers'"),
        ({"every": 0.0}, "above 0 as every"),
    ],
)
def test_what_cannot_be_a_recipe_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Recipe("b", **{"learning_rate": 1e-4, "global_batch": 64, **changes})
