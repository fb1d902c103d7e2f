"""One step through the student: rows of any lengths -> loss and gradients, in pieces of like length and bounded size.

A batch is cut into pieces of at most `budget` tokens, padding counted. So a batch's memory depends on no text's length, and
little is padded; on a CPU each core takes pieces of its own. Imported only where torch is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from runoff.contracts import IntArray
from runoff.distill import losses

Context = Callable[[], AbstractContextManager[Any]]


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
    found: list[list[int]] = []
    count, width = 0, 0
    for group in np.argsort(-longest, kind="stable"):
        size = int(sizes[group])
        if not found or (count + size) * max(width, int(longest[group])) > budget:
            found.append([])
            count, width = 0, int(longest[group])
        found[-1].append(int(group))
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
    return {
        "input_ids": ids.long()[None],
        "position_ids": torch.as_tensor(positions, dtype=torch.long, device=device)[None],
        "seq_idx": torch.as_tensor(owners, dtype=torch.int32, device=device)[None],
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": int(lengths.max()),
        "max_length_k": int(lengths.max()),
    }


def grid(rows: Rows, groups: Sequence[int]) -> tuple[list[int], IntArray, IntArray]:
    """(row numbers of these groups, each row's place among the groups, and within its group)."""
    sizes = np.diff(rows.groups)[list(groups)]
    numbers = np.concatenate([np.arange(rows.groups[g], rows.groups[g + 1]) for g in groups])
    group_of = np.repeat(np.arange(len(groups)), sizes)
    within = np.concatenate([np.arange(size) for size in sizes])
    return numbers.tolist(), group_of, within


def laid_out(
    values: torch.Tensor, group_of: IntArray, within: IntArray, groups: int, width: int
) -> torch.Tensor:
    """Values of rows [n] as [groups, width], 0 where there is none; gradients flow through."""
    places = torch.as_tensor(group_of * width + within, device=values.device, dtype=torch.long)
    return values.new_zeros(groups * width).index_put((places,), values).view(groups, width)


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

    def losses(self, rows: Rows, model: Any = None) -> Iterator[torch.Tensor]:
        """Each piece's share of the batch's loss, with its graph; their sum is the loss."""
        totals = self.totals(rows)
        for part in pieces(rows, self.budget):
            yield self.piece(rows, part, totals, model)

    def totals(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Over how many terms each loss is a mean, in this batch."""
        groups = list(range(len(rows.groups) - 1))
        numbers, group_of, within = grid(rows, groups)
        shape = len(groups), int(within.max()) + 1
        labels = laid_out(rows.labels[numbers], group_of, within, *shape)
        mask = laid_out(torch.ones_like(rows.labels)[numbers], group_of, within, *shape)
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
        numbers, group_of, within = grid(rows, part)
        shape = len(part), int(within.max()) + 1
        scores = laid_out(self.scores(rows, numbers, model), group_of, within, *shape)
        labels = laid_out(rows.labels[numbers], group_of, within, *shape)
        mask = laid_out(torch.ones_like(rows.labels)[numbers], group_of, within, *shape)
        return losses.weighted(self.weights, totals, scores, labels, mask)


def threaded_gradients(
    step: Step, rows: Rows, trained: Sequence[torch.nn.Parameter], pool: ThreadPoolExecutor, threads: int
) -> torch.Tensor:
    """The batch's loss; its gradients are added to the parameters' `grad`. Each thread has pieces of its own.

    One thread a core instead of all threads in each product: no core waits for the slowest at every product. Which
    thread gets which piece is set by their lengths, and sums are made in one order, so a run can be repeated bit by bit.
    """
    totals = step.totals(rows)
    shares: list[list[list[int]]] = [[] for _ in range(threads)]
    loads = [0] * threads
    for part in pieces(rows, step.budget):
        lightest = loads.index(min(loads))
        shares[lightest].append(part)
        loads[lightest] += sum(int(rows.lengths[rows.groups[g] : rows.groups[g + 1]].sum()) for g in part)

    def work(share: list[list[int]]) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        total = torch.zeros(())
        sums: list[torch.Tensor | None] = [None] * len(trained)
        for part in share:
            loss = step.piece(rows, part, totals)
            found = torch.autograd.grad(loss, trained, allow_unused=True)
            total += loss.detach()
            for place, gradient in enumerate(found):
                if gradient is not None:
                    kept = sums[place]
                    sums[place] = gradient if kept is None else kept.add_(gradient)
        return total, sums

    total = torch.zeros(())
    for loss, sums in pool.map(work, shares):
        total += loss
        for parameter, gradient in zip(trained, sums, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    return total
