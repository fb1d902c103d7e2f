"""Whatever a caller means by pairs -> pairs -> packed sequences, with the count of what was cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runoff.contracts import (
    Batch,
    CutReport,
    Encoded,
    FloatArray,
    InputError,
    LengthRules,
    Pair,
    TokenIds,
    TruncationError,
)
from runoff.text.batching import unpacked
from runoff.text.joining import PairTexts
from runoff.text.template import NO_IDS
from runoff.text.tokenizer import Tokenizer


def as_pairs(inputs: Any) -> tuple[bool, list[Any]]:
    """(whether it is one pair, the pairs), by sentence-transformers' rules (notes C4)."""
    if inputs is None:
        raise InputError("inputs is missing: expected a list of (query, document) pairs")
    if isinstance(inputs, np.ndarray):
        is_single = inputs.size > 0 and inputs.ndim < 2
        inputs = inputs.tolist()
    elif isinstance(inputs, str):
        is_single = True
    elif hasattr(inputs, "__iter__") and not isinstance(inputs, (Mapping, Set, bytes)):
        inputs = list(inputs)
        is_single = len(inputs) > 0 and not isinstance(inputs[0], (list, tuple, np.ndarray))
    else:
        raise InputError(
            f"expected a list of (query, document) pairs, got {type(inputs).__name__}: {inputs!r:.80}"
        )
    pairs = [inputs] if is_single else inputs
    return is_single, [_as_pair(pair, row) for row, pair in enumerate(pairs)]


def listed(texts: Sequence[Any]) -> list[Any]:
    """The texts as a list; one text alone is a list of letters, which nobody means."""
    if isinstance(texts, (str, bytes)):
        raise InputError(f"expected a list of texts, got one text: {texts!r:.80}; put it in a list")
    return list(texts)


def _as_pair(pair: Any, row: int) -> Pair | str:
    if type(pair) is tuple and len(pair) == 2 and type(pair[0]) is str and type(pair[1]) is str:
        return pair  # as nearly all are: the tests below take 1 us
    if isinstance(pair, str):  # a lone text is legal there, and so it is here
        return pair
    if not isinstance(pair, (list, tuple, np.ndarray)) or len(pair) != 2:
        raise InputError(f"pair {row}: expected (query, document), got {pair!r:.120}")
    for name, text in zip(("query", "document"), pair, strict=True):
        if not isinstance(text, str):
            raise InputError(
                f"pair {row}: Unsupported input type {type(text).__name__} as {name}; expected a string"
            )
    return (str(pair[0]), str(pair[1]))


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    """The sequences that answer for N pairs, each distinct pair of a call encoded once.

    `block` holds the S sequences. `first_sequences` [U] is where each distinct pair's sequences begin (one, or one
    a passage), `cut_tokens` [U] what each lost, and `distinct_pairs` [N] which distinct pair each of the caller's
    pairs is. Scoring equal pairs once is what makes them tie exactly: in two places of a batch their scores would
    differ in the last bits.
    """

    block: Batch
    first_sequences: npt.NDArray[np.int64]
    cut_tokens: npt.NDArray[np.int64]
    distinct_pairs: npt.NDArray[np.int64]
    max_length: int | None

    @property
    def sequences(self) -> list[Encoded]:
        """The sequences one by one, in the order of the pairs."""
        return unpacked(self.block)

    @property
    def cut(self) -> CutReport:
        """What was cut, where these are all pairs of a call."""
        return cut_report([self])

    def scores_of_pairs(self, outputs: FloatArray) -> FloatArray:
        """Outputs of the sequences [S, L] -> of the pairs [N, L], where these are all pairs of a call."""
        return scores_of_pairs([self], [outputs])


def scores_of_pairs(parts: Sequence[EncodedPairs], outputs: Sequence[FloatArray]) -> FloatArray:
    """Outputs of the sequences [S, L] of each part that has any -> of all pairs [N, L]: the best passage of each."""
    given = [part for part in parts if len(part.block)]
    distinct = [
        np.maximum.reduceat(found, part.first_sequences, axis=0)
        if len(found) > len(part.first_sequences)
        else found
        for part, found in zip(given, outputs, strict=True)
    ]
    scores: FloatArray = np.concatenate(distinct)[np.concatenate([part.distinct_pairs for part in parts])]
    return scores


def cut_report(parts: Sequence[EncodedPairs]) -> CutReport:
    """How many pairs of a call lost how much."""
    distinct = np.concatenate([part.cut_tokens for part in parts])
    cuts = distinct[np.concatenate([part.distinct_pairs for part in parts])]
    return CutReport(len(cuts), int(np.count_nonzero(cuts)), int(cuts.sum()), parts[0].max_length or 0)


def encode_pairs(
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str | TokenIds] | str],
    prompt: str,
    rules: LengthRules,
    first_row: int = 0,
) -> EncodedPairs:
    """Sequences of (query, document) pairs; a document may be its token ids. `prompt` goes before queries.
    `first_row` is the caller's number of the first one, for errors.

    Raises what `PairEncoder` raises.
    """
    encoder = PairEncoder(tokenizer, prompt, rules)
    new = encoder.prepare(pairs, first_row)
    return encoder.encode(new, tokenizer.ids_of_texts(new.texts))


@dataclass(frozen=True, slots=True)
class NewPairs:
    """Pairs of a chunk that no pair before them in the call equals, and which pair each of the chunk's is.

    `queries` [U] are places in `texts`, `documents` [U] places or token ids, `rows` [U] the caller's rows.
    """

    texts: list[str]
    queries: list[int]
    documents: list[int | TokenIds]
    is_pair: list[bool]
    rows: list[int]
    distinct_pairs: list[int]


class PairEncoder:
    """The pairs of one call as sequences, chunk by chunk: `prepare`, then `encode` with the texts' token ids.

    Raises `InputError` for ids that are no ids of this tokenizer, and what `Tokenizer.join` raises, with the row.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: str, rules: LengthRules) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._rules = rules
        self._vocabulary_size = tokenizer.vocabulary_size
        self._number_of: dict[Any, int] = {}
        self._ids_of: dict[int, TokenIds] = {}  # of the distinct pairs whose documents came as token ids
        self._count = 0

    def prepare(self, pairs: Sequence[tuple[str, str | TokenIds] | str], first_row: int) -> NewPairs:
        """The chunk's new pairs, checked, with the texts to be tokenised. To be called in the caller's order."""
        if not _are_plain(pairs, self._vocabulary_size):
            rows = enumerate(pairs, first_row)
            pairs = [_checked(pair, row, self._vocabulary_size) for row, pair in rows]
        texts: dict[str, int] = {}
        new = NewPairs([], [], [], [], [], [])
        for row, pair in enumerate(pairs, first_row):
            count = self._count
            number = self._number(pair)
            new.distinct_pairs.append(number)
            if number < count:
                continue
            query, document = (pair, NO_IDS) if isinstance(pair, str) else pair
            new.queries.append(texts.setdefault(self._prompt + query, len(texts)))
            new.documents.append(
                texts.setdefault(document, len(texts)) if isinstance(document, str) else document
            )
            new.is_pair.append(not isinstance(pair, str))
            new.rows.append(row)
        new.texts.extend(texts)
        return new

    def _number(self, pair: tuple[str, str | TokenIds] | str) -> int:
        """Which distinct pair of the call it is; a new one gets the next number."""
        if isinstance(pair, str) or isinstance(pair[1], str):
            number = self._number_of.setdefault(pair, self._count)
        else:
            # The hash alone is kept, not the bytes; ids of one hash are compared, so that a chance hit costs
            # no more than a pair that is scored twice.
            number = self._number_of.setdefault((pair[0], _hash(pair[1])), self._count)
            if number < self._count and not np.array_equal(self._ids_of[number], pair[1]):
                number = self._count
            self._ids_of[number] = pair[1]
        if number == self._count:
            self._count += 1
        return number

    def encode(self, new: NewPairs, ids: Sequence[TokenIds]) -> EncodedPairs:
        """The sequences of prepared pairs; `ids` are those of their `texts`."""
        texts = PairTexts(
            [ids[place] for place in new.queries],
            [ids[document] if isinstance(document, int) else document for document in new.documents],
            new.is_pair,
        )
        try:
            joined = self._tokenizer.join(texts, self._rules)
        except TruncationError:
            self._name_the_first(new, texts)
            raise
        limit = self._tokenizer.max_length if self._rules.max_length is None else self._rules.max_length
        distinct = np.array(new.distinct_pairs, np.int64)
        return EncodedPairs(joined.block, joined.first_sequences, joined.cut_tokens, distinct, limit)

    def _name_the_first(self, new: NewPairs, texts: PairTexts) -> None:
        """Raises the error of the first pair that cannot be cut, with its row."""
        for place, row in enumerate(new.rows):
            one = slice(place, place + 1)
            try:
                self._tokenizer.join(
                    PairTexts(texts.queries[one], texts.documents[one], texts.is_pair[one]), self._rules
                )
            except TruncationError as error:
                raise TruncationError(f"pair {row}: {error}") from None


def _are_plain(pairs: Sequence[Any], vocabulary_size: int) -> bool:
    """Whether all are texts, or texts with int32 ids of this vocabulary; a quick look that never errs on that side."""
    arrays = []
    for pair in pairs:
        if isinstance(pair, str):
            continue
        query, document = pair
        if not isinstance(query, str):
            return False
        if not isinstance(document, str):
            if type(document) is not np.ndarray or document.ndim != 1 or document.dtype != np.int32:
                return False
            arrays.append(document)
    ids = np.concatenate(arrays) if arrays else NO_IDS
    return not len(ids) or (int(ids.min()) >= 0 and int(ids.max()) < vocabulary_size)


def _checked(pair: Any, row: int, vocabulary_size: int) -> tuple[str, str | TokenIds] | str:
    """The pair, with its document's token ids, if it has them, as int32: equal ids are then equal bytes."""
    if isinstance(pair, str):
        return pair
    query, document = pair
    if not isinstance(query, str):
        raise InputError(
            f"pair {row}: Unsupported input type {type(query).__name__} as query; expected a string"
        )
    if isinstance(document, str):
        return query, document
    kind = (
        f"{document.dtype} {list(document.shape)}"
        if isinstance(document, np.ndarray)
        else type(document).__name__
    )
    if not isinstance(document, np.ndarray) or document.ndim != 1 or document.dtype.kind not in "iu":
        raise InputError(
            f"document {row}: expected a text, or token ids as an array of whole numbers of shape [t], got {kind}"
        )
    if len(document) and (int(document.min()) < 0 or int(document.max()) >= vocabulary_size):
        raise InputError(
            f"document {row}: its token ids lie between {document.min()} and {document.max()}, but the tokenizer "
            f"has {vocabulary_size} tokens: they were made by another one"
        )
    return query, document.astype(np.int32, copy=False)


def _hash(ids: TokenIds) -> int:
    return hash(ids.tobytes())
