"""Activations by name, by torch module and by function give what torch gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from runoff.activation import Activation, softmax
from runoff.contracts import InputError

SCORES = np.linspace(-30, 30, 121, dtype=np.float32).reshape(-1, 1)

MODULES = [nn.Identity(), nn.Sigmoid(), nn.Tanh(), nn.ReLU(), nn.SiLU(), nn.GELU(), nn.GELU("tanh")]


@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_a_torch_module_gives_its_own_values(module):
    values = Activation.of(module)(SCORES)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, module(torch.from_numpy(SCORES)).numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["sigmoid", "torch.nn.modules.activation.Sigmoid"])
def test_a_name_stands_for_its_function(name):
    expected = torch.sigmoid(torch.from_numpy(SCORES)).numpy()
    np.testing.assert_allclose(Activation.of(name)(SCORES), expected, rtol=0, atol=1e-6)


def test_a_saturating_activation_keeps_the_order_and_a_folding_one_does_not():
    keeping = [Activation.of(name).keeps_order for name in ("identity", "sigmoid", "tanh")]
    assert keeping == [True] * 3
    assert not any(Activation.of(name).keeps_order for name in ("relu", "silu", "gelu"))
    assert not Activation.of(lambda scores: -scores).keeps_order


def test_a_function_is_given_a_torch_tensor():
    seen = []

    def shifted(scores):
        seen.append(type(scores))
        return scores + 1

    np.testing.assert_array_equal(Activation.of(shifted)(SCORES), SCORES + 1)
    assert seen == [torch.Tensor]


def test_a_function_may_answer_with_an_array():
    np.testing.assert_array_equal(Activation.of(lambda scores: np.asarray(scores) * 2)(SCORES), SCORES * 2)


def test_an_activation_stands_for_itself():
    sigmoid = Activation.of("sigmoid")
    assert Activation.of(sigmoid) is sigmoid


@pytest.mark.parametrize("value", ["swoosh", "torch.nn.modules.activation.GELU", "my.own.Class", 7, None])
def test_what_is_no_activation_is_refused(value):
    with pytest.raises(InputError, match="activation_fn must be a callable or one of"):
        Activation.of(value)


def test_softmax_gives_shares_of_one_without_overflow():
    scores = np.array([[1.0, 2.0, 3.0], [1000.0, 1000.0, -1000.0]], np.float32)
    shares = softmax(scores)
    np.testing.assert_allclose(
        shares, torch.softmax(torch.from_numpy(scores), dim=1).numpy(), rtol=0, atol=1e-7
    )
    np.testing.assert_allclose(shares[1], [0.5, 0.5, 0.0], rtol=0, atol=1e-7)
