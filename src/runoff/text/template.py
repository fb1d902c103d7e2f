"""The special tokens that a tokenizer puts around one text or two, and token ids laid between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from runoff.contracts import CheckpointError, IntArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HFTokenizer

NO_IDS: IntArray = np.zeros(0, np.int32)
NO_IDS.flags.writeable = False


@dataclass(frozen=True, slots=True)
class Template:
    """Special tokens around two texts, with each part's segment id.

    The template of one text has the same form, so that both kinds lie in one batch: its second text is empty,
    and no special token follows it.
    """

    specials: tuple[IntArray, IntArray, IntArray]  # before the first text, between the two, after the second
    special_types: tuple[IntArray, IntArray, IntArray]
    text_types: tuple[int, int]

    @property
    def special_count(self) -> int:
        return sum(len(part) for part in self.specials)

    @classmethod
    def read(cls, backend: HFTokenizer, *, is_pair: bool) -> Self:
        """What the tokenizer's post-processor puts around texts, read off an example."""
        texts = ("a", "a") if is_pair else ("a",)
        encoding = backend.encode(*texts)
        specials: list[list[int]] = [[]]
        types: list[list[int]] = [[]]
        text_types: list[int] = []
        order: list[int] = []
        rows = zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True)
        for token, type_id, sequence in rows:
            if sequence is None:
                specials[-1].append(token)
                types[-1].append(type_id)
            elif not order or sequence != order[-1]:
                order.append(sequence)
                text_types.append(type_id)
                specials.append([])
                types.append([])
        if len(order) < len(texts):
            raise CheckpointError(
                "the tokenizer gives no token for the letter 'a': it cannot be used for text"
            )
        if order != list(range(len(texts))):
            raise CheckpointError(
                "the tokenizer's template does not put the first text once and then the second: its pairs would be "
                "misread"
            )
        return cls(_three(specials), _three(types), (text_types[0], text_types[-1]))


def _three(parts: list[list[int]]) -> tuple[IntArray, IntArray, IntArray]:
    first, middle, *last = (np.array(part, np.int32) for part in parts)
    return first, middle, last[0] if last else NO_IDS


def interleaved(*columns: Sequence[IntArray]) -> IntArray:
    """Row 0 of every column, then row 1 of every column, and so on, end to end: [T]."""
    pieces: list[IntArray] = [NO_IDS] * (len(columns) * len(columns[0]))
    for place, column in enumerate(columns):
        pieces[place :: len(columns)] = column
    return np.concatenate(pieces) if pieces else NO_IDS
