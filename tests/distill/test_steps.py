"""A step in pieces: the loss and the gradients of the whole batch, whatever the pieces and the threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DataCollatorWithFlattening

from runoff.distill import attention, losses, student
from runoff.distill.recipe import Recipe
from runoff.distill.steps import HELD_TOKENS, Rows, Step, features, grid, laid_out, pieces, threaded_gradients
from standin_tiny import TINY

LENGTHS = (5, 30, 12, 7, 3, 44, 9, 21, 16)
GROUPS = (0, 3, 4, 8, 9)


@pytest.fixture(scope="module", params=["bert-embedder", "modernbert-embedder"])
def model(request, tmp_path_factory):
    folder: Path = TINY[request.param](tmp_path_factory.mktemp("backbone") / "encoder")
    torch.manual_seed(1)
    return student.build(folder, Recipe("b", learning_rate=1e-3, global_batch=8), "cpu").eval()


def made_rows(types: bool = True) -> Rows:
    rng = np.random.default_rng(2)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int32)
    ids = torch.from_numpy(rng.integers(5, 200, offsets[-1]).astype(np.int32))
    labels = torch.from_numpy(rng.normal(0, 2, len(LENGTHS)).astype(np.float32))
    kinds = torch.from_numpy((rng.random(offsets[-1]) < 0.5).astype(np.int32)) if types else None
    return Rows(ids, kinds, offsets, labels, np.array(GROUPS, np.int32))


def one_pass(step: Step, rows: Rows) -> tuple[float, list[torch.Tensor | None]]:
    """The loss and its gradients with every row in one padded batch: the plain way."""
    numbers = list(range(len(rows.labels)))
    scores = step.scores(rows, numbers)
    _, group_of, within = grid(rows, list(range(len(rows.groups) - 1)))
    laid = [laid_out(values, group_of, within) for values in (scores, rows.labels, torch.ones_like(scores))]
    totals = {name: losses.terms(name, *laid[1:]).sum() for name in step.weights}
    loss = losses.weighted(step.weights, totals, *laid)
    trained = [p for p in step.model.parameters() if p.requires_grad]
    return float(loss.detach()), list(torch.autograd.grad(loss, trained, allow_unused=True))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("budget", [1, 40, 10_000])
@pytest.mark.parametrize(
    "weights", [{"mse": 1.0}, {"listwise": 0.5, "mse": 1.0}, {"lambda": 1.0}, {"ranknet": 2.0}]
)
def test_pieces_and_threads_change_neither_loss_nor_gradients(model, weights, budget, threads, monkeypatch):
    monkeypatch.setattr("runoff.distill.steps.HELD_TOKENS", 60)  # several portions a batch
    rows = made_rows(
        types="bert" in model[0].model.config.model_type and "modern" not in model[0].model.config.model_type
    )
    step = Step(model, weights, budget, pad_id=0)
    expected_loss, expected = one_pass(step, rows)
    trained = [p for p in model.parameters() if p.requires_grad]
    model.zero_grad()
    with ThreadPoolExecutor(threads) as pool:
        loss = threaded_gradients(step, rows, trained, pool, threads)
    assert float(loss) == pytest.approx(expected_loss, rel=1e-5)
    # Some gradients are nothing but rounding (a key's bias changes no softmax): the largest of all is the measure.
    largest = max(float(gradient.abs().max()) for gradient in expected if gradient is not None)
    for parameter, gradient in zip(trained, expected, strict=True):
        if gradient is None:
            assert parameter.grad is None
        else:
            assert torch.allclose(parameter.grad, gradient, rtol=1e-3, atol=1e-5 * largest)
    whole = sum(float(part.detach()) for part in step.losses(rows))
    assert whole == pytest.approx(expected_loss, rel=1e-5)


@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_a_packed_step_has_the_loss_and_gradients_of_a_padded_one(model, budget):
    """What a GPU without the flash-attn package trains with; here its attention runs in blocks."""
    is_bert = model[0].model.config.model_type == "bert"
    rows = made_rows(types=is_bert)
    padded = Step(model, {"mse": 1.0}, 10_000, pad_id=0)
    expected_loss, expected = one_pass(padded, rows)
    trained = [p for p in model.parameters() if p.requires_grad]
    usual = model[0].model.config._attn_implementation
    model[0].model.set_attn_implementation(attention.registered_packed())
    try:
        assert attention.takes_packed(model[0])
        step = Step(model, {"mse": 1.0}, budget, pad_id=0, is_packed=True)
        loss = sum(step.losses(rows))
        found = torch.autograd.grad(loss, trained, allow_unused=True)
    finally:
        model[0].model.set_attn_implementation(usual)
    assert float(loss.detach()) == pytest.approx(expected_loss, rel=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in expected if gradient is not None)
    for gradient, wanted in zip(found, expected, strict=True):
        if wanted is not None:
            assert torch.allclose(gradient, wanted, rtol=1e-3, atol=1e-5 * largest)


def test_a_padded_batch_through_the_packed_attention_is_masked_as_usual(model):
    """sentence-transformers' own evaluators pad what they score."""
    pairs = [("a question", "an answer"), ("another", "a much longer answer " * 40)]
    usual = model[0].model.config._attn_implementation
    expected = model.predict(pairs)
    model[0].model.set_attn_implementation(attention.registered_packed())
    try:
        found = model.predict(pairs)
    finally:
        model[0].model.set_attn_implementation(usual)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_on_a_cpu_products_are_plain_and_packing_is_for_gpus():
    assert attention.implementation("bert", "cpu", is_half=True) == attention.BATCHED
    assert attention.implementation("modernbert", "cpu", is_half=True) == "sdpa"


def test_a_batch_of_usual_size_is_one_portion():
    assert HELD_TOKENS >= 64 * 192


@pytest.mark.parametrize("budget", [1, 50, 100, 1000])
def test_pieces_hold_whole_groups_within_the_budget(budget):
    rows = made_rows()
    found = pieces(rows, budget)
    assert sorted(group for part in found for group in part) == [0, 1, 2, 3]
    for part in found:
        lengths = [rows.lengths[rows.groups[g] : rows.groups[g + 1]] for g in part]
        padded = sum(map(len, lengths)) * max(int(each.max()) for each in lengths)
        assert padded <= budget or len(part) == 1


def test_packed_features_are_those_of_transformers_own_collator():
    rows = made_rows(types=False)
    numbers = [4, 0, 2]
    texts = [{"input_ids": rows.ids[rows.offsets[n] : rows.offsets[n + 1]].tolist()} for n in numbers]
    collator = DataCollatorWithFlattening(
        return_seq_idx=True, return_flash_attn_kwargs=True, return_position_ids=True, separator_id=-100
    )
    expected = collator(texts)
    found = features(rows, numbers, 0, is_packed=True)
    for name in ("input_ids", "position_ids", "seq_idx", "cu_seq_lens_q", "cu_seq_lens_k"):
        assert torch.equal(found[name], torch.as_tensor(expected[name]).reshape(found[name].shape)), name
        assert found[name].dtype == expected[name].dtype
    assert (found["max_length_q"], found["max_length_k"]) == (
        expected["max_length_q"],
        expected["max_length_k"],
    )


def test_packed_segments_go_with_their_tokens():
    rows = made_rows()
    types = features(rows, [4, 0], 0, is_packed=True)["token_type_ids"]
    assert torch.equal(types[0, 3:], rows.types[:5].long())
    assert types.shape == (1, 8)


def test_padding_is_masked_and_segments_go_with_their_tokens():
    rows = made_rows()
    made = features(rows, [4, 0], 9, is_packed=False)
    assert made["input_ids"].shape == (2, 5)
    assert made["input_ids"][0, 3:].tolist() == [9, 9]
    assert made["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert torch.equal(made["token_type_ids"][1], rows.types[:5].long())
