"""Texts -> token ids, and pairs -> `Encoded`: special tokens, segments, and what is cut when it is too long.

A text is tokenised once, without special tokens and never truncated, and a pair is put together from two
such rows of ids. So a stored document needs no tokenizer at query time, and the tokenizer's truncation
state, which is what makes it unsafe to share between threads, is never touched.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from runoff.contracts import (
    CheckpointError,
    Encoded,
    InputError,
    IntArray,
    TokenIds,
    Truncation,
    TruncationError,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HFTokenizer

# Overlap of two neighbouring passages of a long document, as a share of a passage: a sentence that one
# passage cuts is whole in the next as long as it is shorter than this share.
PASSAGE_OVERLAP = 0.25
# A passage of fewer tokens than this says too little to be scored.
MIN_PASSAGE_TOKENS = 16


@dataclass(frozen=True, slots=True)
class _Template:
    """Special tokens around one or two texts, with each part's segment id."""

    specials: tuple[IntArray, ...]  # before the first text, between or after, (after the second)
    special_types: tuple[IntArray, ...]
    text_types: tuple[int, ...]

    @property
    def special_count(self) -> int:
        return sum(len(part) for part in self.specials)


class Tokenizer:
    """Tokenises texts and puts pairs together; safe to share between threads.

    `max_length` counts special tokens; None means no limit. `has_segments` False feeds segment 0 everywhere.
    """

    def __init__(
        self,
        backend: HFTokenizer,
        *,
        max_length: int | None,
        has_segments: bool,
        truncation_side: str = "right",
    ) -> None:
        # A saved tokenizer.json may carry the padding and truncation of its last use. Only a static table
        # honours that limit (sentence-transformers' StaticEmbedding); an encoder's is in its config.
        self.saved_limit: int | None = (backend.truncation or {}).get("max_length")
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._has_segments = has_segments
        self._cuts_left = truncation_side == "left"
        self._single = _read_template(backend, pair=False)
        self._pair = _read_template(backend, pair=True)
        self.max_length = max_length

    @functools.cached_property
    def fingerprint(self) -> str:
        """Equal for two tokenizers that give the same ids for every text. 16 hexadecimal digits."""
        rules = json.loads(self._backend.to_str())
        # Templates, truncation and padding do not change the ids of a text.
        for key in ("post_processor", "truncation", "padding", "decoder"):
            rules.pop(key, None)
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def special_token_count(self) -> int:
        """Special tokens of a pair."""
        return self._pair.special_count

    @property
    def has_second_segment(self) -> bool:
        """Whether the template gives the second text of a pair a segment of its own."""
        return any(self._pair.text_types)

    @property
    def vocabulary_size(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    def token_id(self, token: str) -> int | None:
        return self._backend.token_to_id(token)

    @property
    def unknown_token_id(self) -> int | None:
        token = getattr(self._backend.model, "unk_token", None)
        return None if token is None else self._backend.token_to_id(token)

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Ids of each text, without special tokens, never truncated.

        Raises `InputError` naming the first item that is not a text, or holds a lone surrogate.
        """
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"text {row} must be a string, got {type(text).__name__}: {text!r:.80}")
        try:
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as error:
            row = next(row for row, text in enumerate(texts) if not _is_encodable(text))
            raise InputError(
                f"text {row} holds a lone surrogate, which is no character: {texts[row]!r:.80}. "
                "Decode it with errors='replace' where it was read"
            ) from error
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def encode_single(self, ids: TokenIds, max_length: int | None = None) -> Encoded:
        """One text with its special tokens, its end cut at the limit."""
        limit = self.max_length if max_length is None else max_length
        room = len(ids) if limit is None else max(0, limit - self._single.special_count)
        return self._join(self._single, (ids,), (room,))

    def encode_pair(
        self,
        query: TokenIds,
        document: TokenIds,
        truncation: Truncation = "longest_first",
        max_length: int | None = None,
    ) -> Encoded:
        """A pair with its special tokens, cut to the limit by the rule `truncation`.

        Raises `TruncationError` for "error", and for "document" where the query alone fills the pair.
        """
        limit = self.max_length if max_length is None else max_length
        lengths = len(query), len(document)
        if limit is not None and sum(lengths) + self.special_token_count > limit:
            lengths = self._cut_lengths(lengths, limit, truncation)
        return self._join(self._pair, (query, document), lengths)

    def encode_passages(
        self, query: TokenIds, document: TokenIds, truncation: Truncation, max_length: int | None = None
    ) -> list[Encoded]:
        """The pair, or where it is too long one pair for each overlapping passage of the document.

        The query is cut to what `truncation` leaves it; no token of the document is lost, so that
        `cut_tokens` of each are the query's.
        """
        limit = self.max_length if max_length is None else max_length
        if limit is None or len(query) + len(document) + self.special_token_count <= limit:
            return [self._join(self._pair, (query, document), (len(query), len(document)))]
        # "error" refuses losses, and the document loses nothing: only the query must stay whole.
        rule: Truncation = "document" if truncation == "error" else truncation
        query_length, room = self._cut_lengths((len(query), len(document)), limit, rule)
        if room == len(document):  # the query alone gave way
            return [self._join(self._pair, (query, document), (query_length, room))]
        if room < MIN_PASSAGE_TOKENS:
            raise TruncationError(
                f"a query of {query_length} tokens leaves {room} of {limit} tokens for a passage; at least "
                f"{MIN_PASSAGE_TOKENS} are needed. Shorten the query or raise max_length"
            )
        step = room - int(room * PASSAGE_OVERLAP)
        starts = range(0, max(1, len(document) - room + step), step)
        return [
            self._join(self._pair, (query, document[start : start + room]), (query_length, room))
            for start in starts
        ]

    def _cut_lengths(self, lengths: tuple[int, int], limit: int, truncation: Truncation) -> tuple[int, int]:
        """Tokens that query and document keep of an over-long pair."""
        room = limit - self.special_token_count
        query, document = lengths
        if room < 2:
            raise InputError(
                f"max_length {limit} leaves no room for a pair: {self.special_token_count} are special tokens"
            )
        if truncation == "error":
            raise TruncationError(
                f"a pair of {query} + {document} tokens and {self.special_token_count} special ones is longer than "
                f"max_length {limit}; shorten it, or choose truncation='document' or 'longest_first'"
            )
        if truncation == "document":
            if query >= room:
                raise TruncationError(
                    f"the query alone has {query} tokens and leaves none of {room} for the document "
                    "(truncation='document' keeps the query whole); shorten it, or use 'longest_first'"
                )
            return query, room - query
        return longest_first(query, document, room)

    def _join(self, template: _Template, texts: tuple[TokenIds, ...], lengths: tuple[int, ...]) -> Encoded:
        parts, types, cut = [template.specials[0]], [template.special_types[0]], 0
        for i, (text, length) in enumerate(zip(texts, lengths, strict=True)):
            kept = text[len(text) - length :] if self._cuts_left and length < len(text) else text[:length]
            cut += len(text) - len(kept)
            parts += [kept, template.specials[i + 1]]
            types += [np.full(len(kept), template.text_types[i], np.int32), template.special_types[i + 1]]
        ids = np.concatenate(parts, dtype=np.int32)
        type_ids = (
            np.concatenate(types, dtype=np.int32) if self._has_segments else np.zeros(len(ids), np.int32)
        )
        return Encoded(ids, type_ids, cut)


def longest_first(query: int, document: int, room: int) -> tuple[int, int]:
    """Lengths that Hugging Face tokenizers' `longest_first` leaves of two texts in `room` tokens.

    The shorter text stays whole if the longer one can give way alone; else both get half, the longer
    one the odd token. Source: tokenizers, utils/truncation.rs; the table in the tests was executed.
    """
    if query + document <= room:
        return query, document
    shorter, longer = sorted((query, document))
    longer = shorter if shorter > room else max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room // 2 + room % 2
    return (shorter, longer) if query <= document else (longer, shorter)


def load_tokenizer(
    folder: Path,
    *,
    max_length: int | None,
    lowercases: bool = False,
    has_segments: bool = False,
    truncation_side: str = "right",
    class_name: str = "",
) -> Tokenizer:
    """The tokenizer of a checkpoint folder: tokenizer.json, or a BERT vocab.txt.

    `class_name` is the class that transformers would load it with; "" takes tokenizer.json as it is.
    """
    config = _read_config(folder / "tokenizer_config.json")
    backend = _load_backend(folder)
    _use_rules_of_class(backend, class_name, config)
    if lowercases:
        _prepend_lowercase(backend)
    return Tokenizer(
        backend,
        max_length=max_length,
        has_segments=has_segments,
        truncation_side=truncation_side,
    )


def _read_config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); the file is damaged") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} must hold a JSON object, got {type(config).__name__}")
    return config


def _load_backend(folder: Path) -> HFTokenizer:
    from tokenizers import Tokenizer as HFTokenizer

    file = folder / "tokenizer.json"
    if file.is_file():
        try:
            return HFTokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception for a bad file
            raise CheckpointError(
                f"{file} cannot be read ({error}); the file is damaged: download it again"
            ) from error
    if (folder / "vocab.txt").is_file():
        from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

        return BertWordPieceTokenizer(str(folder / "vocab.txt"))._tokenizer
    raise CheckpointError(
        f"{folder} has no tokenizer.json; Runoff reads fast tokenizers only. Save the tokenizer again with "
        "transformers (AutoTokenizer.from_pretrained(...).save_pretrained(...)), which writes one"
    )


def _use_rules_of_class(backend: HFTokenizer, class_name: str, config: dict[str, Any]) -> None:
    """Sets the rules that transformers 5 gives the class, from tokenizer_config.json.

    Its classes keep only the vocabulary of tokenizer.json and build the rest anew, so that a file with other
    rules (bge-reranker-v2-m3's splits words otherwise) or another template is read differently there.
    """
    from tokenizers import models, normalizers, pre_tokenizers

    if class_name in ("BertTokenizer", "DistilBertTokenizer") and isinstance(backend.model, models.WordPiece):
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=config.get("tokenize_chinese_chars", True),
            strip_accents=config.get("strip_accents"),
            lowercase=config.get("do_lower_case", True),
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        names = _named(config, cls_token="[CLS]", sep_token="[SEP]")
        _use_template(backend, names, ["{first}", "$A", "{last}", "$B:1", "{last}:1"])
    elif class_name == "RobertaTokenizer" and isinstance(backend.model, models.BPE):
        backend.normalizer = None
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=config.get("add_prefix_space", False)
        )
        names = _named(config, cls_token="<s>", sep_token="</s>")
        _use_template(backend, names, ["{first}", "$A", "{last}", "{last}", "$B", "{last}"])
    elif class_name in ("XLMRobertaTokenizer", "CamembertTokenizer") and isinstance(
        backend.model, models.Unigram
    ):
        normalizer = backend.normalizer
        is_chain = isinstance(normalizer, normalizers.Sequence)
        parts = cast(Iterable[Any], normalizer) if is_chain else [normalizer]
        backend.normalizer = next((part for part in parts if isinstance(part, normalizers.Precompiled)), None)
        scheme = "always" if config.get("add_prefix_space", True) else "never"
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("\u2581", scheme)]
        )
        names = _named(config, bos_token="<s>", eos_token="</s>")
        _use_template(backend, names, ["{first}", "$A", "{last}", "{last}", "$B", "{last}"])


def _named(config: dict[str, Any], **defaults: str) -> list[str]:
    """Special tokens by their keys in tokenizer_config.json, which may hold a token or an object with one."""
    named = [config.get(key) or default for key, default in defaults.items()]
    return [str(each["content"] if isinstance(each, dict) else each) for each in named]


def _use_template(backend: HFTokenizer, names: list[str], pair: list[str]) -> None:
    """Puts the tokens `names` (first, last) around texts as `pair` says, where the vocabulary has them."""
    from tokenizers import processors

    ids = [backend.token_to_id(name) for name in names]
    if None in ids:
        return
    filled = [part.format(first=names[0], last=names[1]) for part in pair]
    backend.post_processor = processors.TemplateProcessing(
        single=filled[:3], pair=filled, special_tokens=list(zip(names, ids, strict=True))
    )


def _prepend_lowercase(backend: HFTokenizer) -> None:
    """Lower-cases before anything else, as sentence-transformers' `do_lower_case` does (no accent is stripped)."""
    from tokenizers import normalizers

    normalizer = backend.normalizer
    rest: list[Any] = []
    if normalizer is not None:
        is_chain = isinstance(normalizer, normalizers.Sequence)
        rest = [*cast(Iterable[Any], normalizer)] if is_chain else [normalizer]
    if not any(isinstance(part, normalizers.Lowercase) for part in rest):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])


def _read_template(backend: HFTokenizer, pair: bool) -> _Template:
    """The special tokens that the tokenizer's post-processor puts around texts, read off an example."""
    texts = ("a", "a") if pair else ("a",)
    encoding = backend.encode(*texts)
    specials: list[list[int]] = [[]]
    types: list[list[int]] = [[]]
    text_types: list[int] = []
    order: list[int] = []
    for token, type_id, sequence in zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True):
        if sequence is None:
            specials[-1].append(token)
            types[-1].append(type_id)
        elif not order or sequence != order[-1]:
            order.append(sequence)
            text_types.append(type_id)
            specials.append([])
            types.append([])
    if len(order) < len(texts):
        raise CheckpointError("the tokenizer gives no token for the letter 'a': it cannot be used for text")
    if order != list(range(len(texts))):
        raise CheckpointError(
            "the tokenizer's template does not put the first text once and then the second: its pairs would be misread"
        )
    return _Template(
        tuple(np.array(part, np.int32) for part in specials),
        tuple(np.array(part, np.int32) for part in types),
        tuple(text_types),
    )


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
