"""One step through the student: rows of any lengths -> loss and gradients, in pieces of like length and bounded size.

A batch is cut into pieces of at most `budget` tokens, padding counted: its memory depends on no text's length, and
little is padded. On a CPU each core takes pieces of its own. Imported only where torch is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from runoff.contracts import IntArray
from runoff.distill import losses

Context = Callable[[], AbstractContextManager[Any]]
Places = npt.NDArray[Any]
"""Integers [n]."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch as the loader hands it over: texts end to end, and where each group of rows ends.

    ids, types   token ids and segments of all rows, packed, [T]; `types` None where the model has none
    offsets      where each row starts and ends in them, [N + 1]
    labels       the teacher's, [N]
    groups       where each group starts and ends among the rows, [G + 1]
    """

    ids: torch.Tensor
    types: torch.Tensor | None
    offsets: IntArray
    labels: torch.Tensor
    groups: IntArray

    @property
    def lengths(self) -> IntArray:
        return np.diff(self.offsets)

    def to(self, device: torch.device) -> Rows:
        types = None if self.types is None else self.types.to(device, non_blocking=True)
        return Rows(
            self.ids.to(device, non_blocking=True),
            types,
            self.offsets,
            self.labels.to(device, non_blocking=True),
            self.groups,
        )


def pieces(rows: Rows, budget: int) -> list[list[int]]:
    """Groups that go through the model together: longest first, at most `budget` tokens with padding (or one group)."""
    sizes = np.diff(rows.groups)
    longest = np.maximum.reduceat(rows.lengths, rows.groups[:-1]) if len(sizes) else sizes
    return cut(longest, sizes, budget)


def cut(longest: Places, sizes: Places, budget: int) -> list[list[int]]:
    """Items, of so many rows of at most so many tokens, in parts of `budget` tokens, padding counted (or one item).

    The longest come first, so that a part has items of like length.
    """
    found: list[list[int]] = []
    count, width = 0, 0
    for item in np.argsort(-longest, kind="stable"):
        size = int(sizes[item])
        if not found or (count + size) * width > budget:
            found.append([])
            count, width = 0, int(longest[item])
        found[-1].append(int(item))
        count += size
    return found


def features(rows: Rows, numbers: Sequence[int], pad_id: int, is_packed: bool) -> dict[str, Any]:
    """What the model is called with for these rows: padded, or packed for flash attention's variable lengths."""
    starts, ends = rows.offsets[:-1], rows.offsets[1:]
    if is_packed:
        return _packed(rows, numbers)
    parts = [rows.ids[starts[n] : ends[n]] for n in numbers]
    ids = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=pad_id).long()
    lengths = torch.as_tensor(rows.lengths[list(numbers)], device=ids.device)
    mask = (torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]).long()
    made = {"input_ids": ids, "attention_mask": mask}
    if rows.types is not None:
        types = [rows.types[starts[n] : ends[n]] for n in numbers]
        made["token_type_ids"] = torch.nn.utils.rnn.pad_sequence(types, batch_first=True).long()
    return made


def _packed(rows: Rows, numbers: Sequence[int]) -> dict[str, Any]:
    """One row of tokens without padding, as transformers' DataCollatorWithFlattening makes it."""
    lengths = rows.lengths[list(numbers)]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    device = rows.ids.device
    ids = torch.cat([rows.ids[rows.offsets[n] : rows.offsets[n + 1]] for n in numbers])
    positions = np.concatenate([np.arange(length) for length in lengths])
    owners = np.repeat(np.arange(len(lengths)), lengths)
    borders = torch.as_tensor(ends, dtype=torch.int32, device=device)
    made = {
        "input_ids": ids.long()[None],
        "position_ids": torch.as_tensor(positions, dtype=torch.long, device=device)[None],
        "seq_idx": torch.as_tensor(owners, dtype=torch.int32, device=device)[None],
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": int(lengths.max()),
        "max_length_k": int(lengths.max()),
    }
    if rows.types is not None:  # the collator of transformers leaves them out, and BERT then takes zeros
        types = [rows.types[rows.offsets[n] : rows.offsets[n + 1]] for n in numbers]
        made["token_type_ids"] = torch.cat(types).long()[None]
    return made


def grid(rows: Rows, groups: Sequence[int]) -> tuple[list[int], Places, Places]:
    """(row numbers of these groups, each row's place among the groups, and within its group)."""
    sizes = np.diff(rows.groups)[list(groups)]
    numbers = np.concatenate([np.arange(rows.groups[g], rows.groups[g + 1]) for g in groups])
    group_of = np.repeat(np.arange(len(groups)), sizes)
    within = np.concatenate([np.arange(size) for size in sizes])
    return numbers.tolist(), group_of, within


def laid_out(values: torch.Tensor, group_of: Places, within: Places) -> torch.Tensor:
    """Values of rows [n] as [groups, documents of the largest], 0 where there is none; gradients flow through."""
    groups, width = int(group_of[-1]) + 1, int(within.max()) + 1
    places = torch.as_tensor(group_of * width + within, device=values.device, dtype=torch.long)
    return values.new_zeros(groups * width).index_put((places,), values).view(groups, width)


def targets(labels: torch.Tensor, group_of: Places, within: Places) -> tuple[torch.Tensor, torch.Tensor]:
    """(labels, mask) of rows, laid out."""
    return laid_out(labels, group_of, within), laid_out(torch.ones_like(labels), group_of, within)


class Step:
    """Loss and gradients of batches, for one model. `pad_id` fills up shorter texts."""

    def __init__(
        self, model: Any, weights: Mapping[str, float], budget: int, pad_id: int, is_packed: bool = False
    ) -> None:
        self.model, self.weights, self.budget = model, weights, budget
        self.context: Context = nullcontext
        """What the forward runs in: the trainer's autocast."""
        self._pad_id, self._is_packed = pad_id, is_packed

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def losses(self, rows: Rows) -> Iterator[torch.Tensor]:
        """Each piece's share of the batch's loss, with its graph; their sum is the loss."""
        totals = self.totals(rows)
        for part in pieces(rows, self.budget):
            yield self.piece(rows, part, totals)

    def totals(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Over how many terms each loss is a mean, in this batch."""
        numbers, *places = grid(rows, range(len(rows.groups) - 1))
        labels, mask = targets(rows.labels[numbers], *places)
        return {name: losses.terms(name, labels, mask).sum() for name in self.weights}

    def scores(self, rows: Rows, numbers: Sequence[int], model: Any = None) -> torch.Tensor:
        """Raw scores of these rows, [n], in fp32."""
        with self.context():
            made = (model or self.model)(features(rows, numbers, self._pad_id, self._is_packed))["scores"]
        flat: torch.Tensor = made.float().view(-1)
        return flat

    def piece(
        self, rows: Rows, part: Sequence[int], totals: Mapping[str, torch.Tensor], model: Any = None
    ) -> torch.Tensor:
        """The share that these groups have in the batch's loss."""
        numbers, *places = grid(rows, part)
        return self.loss(self.scores(rows, numbers, model), rows.labels[numbers], places, totals)

    def loss(
        self,
        scores: torch.Tensor,
        labels: torch.Tensor,
        places: Sequence[Places],
        totals: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """The share in the batch's loss of rows with these scores and labels, [n], at the places that `grid` says."""
        laid = laid_out(scores, *places)
        return losses.weighted(self.weights, totals, laid, *targets(labels, *places))


HELD_TOKENS = 16_384
"""Tokens of a batch whose graphs are held at once: 8,000 of them took 2 GB with six layers of 384 in bf16."""


def threaded_gradients(
    step: Step, rows: Rows, trained: Sequence[torch.nn.Parameter], pool: ThreadPoolExecutor, threads: int
) -> torch.Tensor:
    """The batch's loss; its gradients are added to the parameters' `grad`. Each thread has pieces of its own.

    One thread a core instead of all threads in each product: no core waits for the slowest at every product. Which
    thread gets which piece is set by their lengths, and sums have one order: a run can be repeated bit by bit. A piece
    has rows of like length, of whatever groups: scores come first, then the loss and its slope at each score, then each
    piece's gradients. (Pieces of whole groups padded 31 % of the tokens at 8 documents a group.)
    """
    totals = step.totals(rows)
    loss = torch.zeros(())
    sums: list[list[torch.Tensor | None]] = [[None] * len(trained) for _ in range(threads)]
    for groups in _portions(rows, HELD_TOKENS):
        numbers, *grid_places = grid(rows, groups)
        shares = _dealt(rows.lengths[numbers], step.budget, threads)

        def forward(share: list[list[int]], numbers: list[int] = numbers) -> list[torch.Tensor]:
            return [step.scores(rows, [numbers[place] for place in places]) for places in share]

        made = list(pool.map(forward, shares))
        scores = torch.zeros(len(numbers))
        for share, parts in zip(shares, made, strict=True):
            for places, part in zip(share, parts, strict=True):
                scores[torch.as_tensor(places)] = part.detach()
        scores.requires_grad_()
        part_loss = step.loss(scores, rows.labels[numbers], grid_places, totals)
        (slopes,) = torch.autograd.grad(part_loss, scores)
        loss += part_loss.detach()

        def backward(
            thread: int, shares: Any = shares, made: Any = made, slopes: torch.Tensor = slopes
        ) -> None:
            for places, part in zip(shares[thread], made[thread], strict=True):
                found = torch.autograd.grad(
                    part, trained, grad_outputs=slopes[torch.as_tensor(places)], allow_unused=True
                )
                _add(sums[thread], found)

        list(pool.map(backward, range(threads)))
    for each in sums:
        for parameter, gradient in zip(trained, each, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    return loss


def _add(sums: list[torch.Tensor | None], found: Sequence[torch.Tensor | None]) -> None:
    for place, gradient in enumerate(found):
        kept = sums[place]
        if gradient is not None:
            sums[place] = gradient if kept is None else kept.add_(gradient)


def _portions(rows: Rows, tokens: int) -> Iterator[list[int]]:
    """Whole groups, in their order, as many as have at most so many tokens (or one)."""
    part: list[int] = []
    count = 0
    for group in range(len(rows.groups) - 1):
        size = int(rows.offsets[rows.groups[group + 1]] - rows.offsets[rows.groups[group]])
        if part and count + size > tokens:
            yield part
            part, count = [], 0
        part.append(group)
        count += size
    if part:
        yield part


def _dealt(lengths: IntArray, budget: int, threads: int) -> list[list[list[int]]]:
    """For each thread its pieces, as places of rows: longest first, at most `budget` tokens each with padding."""
    shares: list[list[list[int]]] = [[] for _ in range(threads)]
    loads = [0] * threads
    for places in cut(lengths, np.ones_like(lengths), budget):
        lightest = loads.index(min(loads))
        shares[lightest].append(places)
        loads[lightest] += int(lengths[places[0]]) * len(places)
    return shares
