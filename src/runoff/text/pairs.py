"""Whatever a caller means by pairs -> pairs -> `Encoded` sequences, with the count of what was cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runoff.contracts import (
    CutReport,
    Encoded,
    FloatArray,
    InputError,
    LengthRules,
    Pair,
    TokenIds,
    TruncationError,
)
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
    """The sequences that answer for N pairs, each distinct pair encoded once.

    `first_sequences` [U] is where each distinct pair's sequences begin (one, or one a passage), and
    `distinct_pairs` [N] which distinct pair each of the caller's pairs is. Scoring equal pairs once is what
    makes them tie exactly: in two places of a batch their scores would differ in the last bits.
    """

    sequences: list[Encoded]
    first_sequences: list[int]
    distinct_pairs: npt.NDArray[np.int64]
    cut: CutReport

    def scores_of_pairs(self, outputs: FloatArray) -> FloatArray:
        """Outputs of the sequences [S, L] -> of the pairs [N, L]: the best passage of each."""
        if len(outputs) > len(self.first_sequences):
            outputs = np.maximum.reduceat(outputs, self.first_sequences, axis=0)
        return outputs[self.distinct_pairs]


def encode_pairs(
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str | TokenIds] | str],
    prompt: str,
    rules: LengthRules,
    first_row: int = 0,
) -> EncodedPairs:
    """Sequences of (query, document) pairs; a document may be its token ids. `prompt` goes before queries.
    `first_row` is the caller's number of the first one, for errors.

    Raises `InputError` for ids that are no ids of this tokenizer, and what `Tokenizer.encode_pair` raises.
    """
    pairs = [_checked(pair, row, tokenizer) for row, pair in enumerate(pairs, first_row)]
    keys = [_key(pair) for pair in pairs]
    distinct = dict(zip(keys, pairs, strict=True))
    number_of = {key: number for number, key in enumerate(distinct)}
    ids_of = _tokenize_once(tokenizer, list(distinct.values()), prompt)
    sequences: list[Encoded] = []
    first_sequences: list[int] = []
    cut_tokens: dict[Any, int] = {}
    for key, pair in distinct.items():
        first_sequences.append(len(sequences))
        try:
            sequences += _encode_pair(tokenizer, pair, ids_of, prompt, rules)
        except TruncationError as error:
            raise TruncationError(f"pair {first_row + keys.index(key)}: {error}") from None
        # Passages lose nothing of the document, and all of them the same tokens of a long query.
        cut_tokens[key] = sequences[-1].cut_tokens
    cuts = [cut_tokens[key] for key in keys]
    limit = tokenizer.max_length if rules.max_length is None else rules.max_length
    return EncodedPairs(
        sequences,
        first_sequences,
        np.array([number_of[key] for key in keys], np.int64),
        CutReport(len(pairs), sum(cut > 0 for cut in cuts), sum(cuts), limit or 0),
    )


def _checked(pair: Any, row: int, tokenizer: Tokenizer) -> tuple[str, str | TokenIds] | str:
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
    if len(document) and (int(document.min()) < 0 or int(document.max()) >= tokenizer.vocabulary_size):
        raise InputError(
            f"document {row}: its token ids lie between {document.min()} and {document.max()}, but the tokenizer "
            f"has {tokenizer.vocabulary_size} tokens: they were made by another one"
        )
    return query, document.astype(np.int32, copy=False)


def _key(pair: tuple[str, str | TokenIds] | str) -> Any:
    if isinstance(pair, str) or isinstance(pair[1], str):
        return pair
    return pair[0], pair[1].tobytes()


def _tokenize_once(
    tokenizer: Tokenizer, pairs: Sequence[tuple[str, str | TokenIds] | str], prompt: str
) -> dict[str, TokenIds]:
    """Ids of each distinct text: a query stands in many pairs."""
    texts: dict[str, None] = {}
    for pair in pairs:
        query, document = (pair, None) if isinstance(pair, str) else pair
        texts[prompt + query] = None
        if isinstance(document, str):
            texts[document] = None
    return dict(zip(texts, tokenizer.tokenize(list(texts)), strict=True))


def _encode_pair(
    tokenizer: Tokenizer,
    pair: tuple[str, str | TokenIds] | str,
    ids_of: dict[str, TokenIds],
    prompt: str,
    rules: LengthRules,
) -> list[Encoded]:
    if isinstance(pair, str):
        single = tokenizer.encode_single(ids_of[prompt + pair], rules.max_length)
        if single.cut_tokens and rules.truncation == "error":
            limit = rules.max_length or tokenizer.max_length
            raise TruncationError(
                f"a text of {len(ids_of[prompt + pair])} tokens is longer than max_length {limit} with its special "
                "tokens; shorten it, or choose truncation='longest_first'"
            )
        return [single]
    query, document = ids_of[prompt + pair[0]], pair[1]
    document_ids = ids_of[document] if isinstance(document, str) else document
    if rules.long_documents == "passages":
        return tokenizer.encode_passages(query, document_ids, rules.truncation, rules.max_length)
    return [tokenizer.encode_pair(query, document_ids, rules.truncation, rules.max_length)]
