"""What a student learns by: scores against a teacher's labels, as sums that batches can be cut along.

Every loss takes scores, labels and a mask, [G, K]: G groups of up to K documents of one query, padding masked out.
It gives a sum over each group, [G], and `terms` says over how many terms, from labels alone, so that a batch may go
through the model in pieces: the loss of the batch is the sum of all sums over the sum of all terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any

GRADES = 4.0
"""A group's labels are stretched to 0..4 as the relevance in LambdaLoss' gains 2^r - 1: what judged sets use.

Raw teacher logits reach 22, whose gain would be four million times that of the next document.
"""


def mse(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Squared differences: the published recipe's loss (a term a document)."""
    return ((scores - labels) ** 2 * mask).sum(1)


def centred_mse(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Squared differences once each group's mean is taken off both: order and spread, not level."""
    return mse(_centred(scores, mask), _centred(labels, mask), mask)


def margin_mse(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Squared differences of the margins from a group's best label to each other (Hofstätter et al., 2010.02666)."""
    best = labels.masked_fill(mask == 0, -math.inf).argmax(1, keepdim=True)
    others = mask.scatter(1, best, 0.0)
    return mse(scores.gather(1, best) - scores, labels.gather(1, best) - labels, others)


def ranknet(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy in bits of every pair whose labels differ (Burges et al., 2005); a term a pair."""
    from torch.nn import functional

    differences = scores[:, :, None] - scores[:, None, :]
    losses = functional.logsigmoid(differences).neg() / math.log(2)
    return (losses * _ordered(labels, mask)).sum((1, 2))


def lambda_loss(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """RankNet's pairs weighted by what exchanging them would change in NDCG (NDCGLoss2, Wang et al., CIKM 2018).

    Relevances are the group's labels stretched to 0..`GRADES`.
    """
    import torch
    from torch.nn import functional

    grades = _grades(labels, mask)
    padded = scores.masked_fill(mask == 0, -math.inf)
    order = torch.sort(padded, dim=1, descending=True, stable=True).indices
    scores, grades, labels, mask = (values.gather(1, order) for values in (scores, grades, labels, mask))
    places = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype)
    discounts = torch.log2(1 + places)
    ideal = ((2 ** grades.sort(1, descending=True).values - 1) / discounts).sum(1).clamp(min=1e-10)
    gains = (2**grades - 1) * mask / ideal[:, None]
    # 1/D(|i-j|) - 1/D(|i-j|+1): how fast discounts fall where the two stand (equation 17 of the paper).
    apart = (places[:, None] - places[None, :]).abs()
    falls = (1 / torch.log2(1 + apart.clamp(min=1)) - 1 / torch.log2(2 + apart.clamp(min=1))).abs()
    falls.fill_diagonal_(0.0)
    weights = falls[None] * (gains[:, :, None] - gains[:, None, :]).abs()
    losses = functional.logsigmoid(scores[:, :, None] - scores[:, None, :]).neg() / math.log(2)
    return (weights * losses * _ordered(labels, mask)).sum((1, 2))


def listwise(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """KL divergence from the softmax of a group's labels to that of its scores; a term a group."""
    wanted = _log_softmax(labels, mask)
    return (wanted.exp() * (wanted - _log_softmax(scores, mask)) * mask).sum(1)


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
FUNCTIONS: Mapping[str, Loss] = {
    "mse": mse,
    "centred_mse": centred_mse,
    "margin_mse": margin_mse,
    "ranknet": ranknet,
    "lambda": lambda_loss,
    "listwise": listwise,
}


def terms(name: str, labels: Tensor, mask: Tensor) -> Tensor:
    """Over how many terms the loss of this name is a mean, for each group, [G]."""
    if name in ("ranknet", "lambda"):
        return _ordered(labels, mask).sum((1, 2))
    if name == "margin_mse":
        return mask.sum(1) - 1
    if name == "listwise":
        return (mask.sum(1) > 1).to(mask.dtype)
    return mask.sum(1)


def weighted(
    weights: Mapping[str, float], totals: Mapping[str, Tensor], scores: Tensor, labels: Tensor, mask: Tensor
) -> Tensor:
    """The weighted sum of the losses of these groups, as their share of a batch that has `totals` terms of each."""
    parts = [
        weight * FUNCTIONS[name](scores, labels, mask).sum() / totals[name].clamp(min=1)
        for name, weight in weights.items()
    ]
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result


# --- shapes ------------------------------------------------------------------------------------------


def _centred(values: Tensor, mask: Tensor) -> Tensor:
    return values - (values * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)


def _ordered(labels: Tensor, mask: Tensor) -> Tensor:
    """1 where the first document of a pair has the higher label, [G, K, K]."""
    both = mask[:, :, None] * mask[:, None, :]
    return (labels[:, :, None] > labels[:, None, :]).to(mask.dtype) * both


def _grades(labels: Tensor, mask: Tensor) -> Tensor:
    lowest = labels.masked_fill(mask == 0, math.inf).amin(1, keepdim=True)
    highest = labels.masked_fill(mask == 0, -math.inf).amax(1, keepdim=True)
    return GRADES * (labels - lowest) / (highest - lowest).clamp(min=1e-6) * mask


def _log_softmax(values: Tensor, mask: Tensor) -> Tensor:
    return values.masked_fill(mask == 0, -math.inf).log_softmax(1).masked_fill(mask == 0, 0.0)
