"""Losses: equal to sentence-transformers' where it has them, and the same however a batch is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers.cross_encoder import losses as reference

from runoff.distill import losses
from runoff.distill.losses import FUNCTIONS, terms, weighted


def drawn(groups: int = 5, width: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(2, width + 1, (groups,), generator=generator)
    mask = (torch.arange(width)[None] < sizes[:, None]).double()
    scores = torch.randn(groups, width, generator=generator, dtype=torch.float64) * 2
    labels = torch.randn(groups, width, generator=generator, dtype=torch.float64) * 3
    return scores * mask, labels * mask, mask


def whole(name: str, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return weighted({name: 1.0}, {name: terms(name, labels, mask).sum()}, scores, labels, mask)


class FixedScores:
    """A model as sentence-transformers' list losses call it, whose scores are given."""

    def __init__(self, scores: list[float]) -> None:
        self.scores, self.device, self.num_labels = torch.tensor(scores, dtype=torch.float64), "cpu", 1

    def preprocess(self, pairs: list[Any], **_options: Any) -> dict[str, torch.Tensor]:
        # The pairs are numbers in disguise: which score is theirs.
        return {"rows": torch.tensor([int(document) for _, document in pairs])}

    def __call__(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"scores": self.scores[features["rows"]][:, None]}


def reference_inputs(mask: torch.Tensor) -> tuple[list[str], list[list[str]]]:
    counts = mask.sum(1).int().tolist()
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return [str(i) for i in range(len(counts))], [
        [str(start + place) for place in range(count)] for start, count in zip(starts, counts, strict=True)
    ]


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_batch_has_one_loss_and_one_gradient_however_it_is_cut(name):
    scores, labels, mask = drawn(6)
    scores.requires_grad_()
    totals = {name: terms(name, labels, mask).sum()}
    together = whole(name, scores, labels, mask)
    (gradient,) = torch.autograd.grad(together, scores, retain_graph=True)
    parts = [
        weighted({name: 1.0}, totals, scores[i : i + 2], labels[i : i + 2], mask[i : i + 2])
        for i in (0, 2, 4)
    ]
    (cut,) = torch.autograd.grad(sum(parts), scores)
    assert float(sum(parts)) == pytest.approx(float(together), rel=1e-12)
    assert torch.allclose(gradient, cut, atol=1e-12)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_padding_has_no_share_in_a_loss(name):
    scores, labels, mask = drawn(4, width=5)
    wider = [
        torch.nn.functional.pad(part, (0, 3), value=fill)
        for part, fill in ((scores, 7.0), (labels, 9.0), (mask, 0.0))
    ]
    assert float(whole(name, *wider)) == pytest.approx(float(whole(name, scores, labels, mask)), rel=1e-12)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_scores_that_equal_the_labels_are_never_worse_than_others(name):
    scores, labels, mask = drawn(8)
    assert float(whole(name, labels * 4, labels * 4, mask)) <= float(whole(name, scores, labels * 4, mask))


def test_mse_is_the_mean_of_squares_over_all_documents():
    scores, labels, mask = drawn()
    rows = mask.bool()
    assert float(whole("mse", scores, labels, mask)) == pytest.approx(
        float(torch.nn.functional.mse_loss(scores[rows], labels[rows]))
    )


def test_centred_mse_does_not_see_a_query_s_level():
    scores, labels, mask = drawn()
    raised = scores + torch.arange(5)[:, None] * mask
    assert float(whole("centred_mse", raised, labels, mask)) == pytest.approx(
        float(whole("centred_mse", scores, labels, mask)), rel=1e-9
    )


def test_margins_are_those_of_sentence_transformers():
    scores, labels, _ = drawn(3, width=4)
    mask = torch.ones(3, 4, dtype=torch.float64)
    labels = labels.sort(1, descending=True).values  # the best first, as the reference expects its positive
    expected = torch.nn.functional.mse_loss(scores[:, :1] - scores[:, 1:], labels[:, :1] - labels[:, 1:])
    assert float(whole("margin_mse", scores, labels, mask)) == pytest.approx(float(expected))


def test_ranknet_is_that_of_sentence_transformers(monkeypatch):
    scores, labels, mask = drawn(4)
    assert float(whole("ranknet", scores, labels, mask)) == pytest.approx(
        reference_loss(monkeypatch, reference.RankNetLoss, scores, labels, mask), rel=1e-6
    )


def test_lambda_loss_is_ndcg_loss_2_of_sentence_transformers(monkeypatch):
    scores, labels, mask = drawn(4)
    grades = losses._grades(labels, mask)  # the reference takes labels as relevances as they are
    expected = reference_loss(
        monkeypatch, reference.LambdaLoss, scores, grades, mask, weighting_scheme=reference.NDCGLoss2Scheme()
    )
    assert float(whole("lambda", scores, labels, mask)) == pytest.approx(expected, rel=1e-5)


def reference_loss(monkeypatch, kind: Any, scores: Any, labels: Any, mask: Any, **options: Any) -> float:
    model = FixedScores(scores[mask.bool()].tolist())
    for module in ("lambda_loss", "rank_net"):
        monkeypatch.setattr(f"sentence_transformers.cross_encoder.losses.{module}.CrossEncoder", FixedScores)
    loss = kind(model, **options)
    queries, documents = reference_inputs(mask)
    wanted = [row[keep.bool()] for row, keep in zip(labels, mask, strict=True)]
    return float(loss([queries, documents], wanted))


def test_listwise_is_the_divergence_of_the_softmaxes():
    scores, labels, mask = drawn(4)
    parts = []
    for score, label, keep in zip(scores, labels, mask.bool(), strict=True):
        wanted = label[keep].log_softmax(0)
        parts.append(
            torch.nn.functional.kl_div(score[keep].log_softmax(0), wanted, log_target=True, reduction="sum")
        )
    assert float(whole("listwise", scores, labels, mask)) == pytest.approx(
        float(torch.stack(parts).mean()), rel=1e-6
    )


def test_a_group_of_one_document_costs_a_list_loss_nothing():
    one = torch.ones(1, 1, dtype=torch.float64)
    for name in ("ranknet", "lambda", "margin_mse", "listwise"):
        assert float(whole(name, one * 3, one * 5, one)) == 0.0
