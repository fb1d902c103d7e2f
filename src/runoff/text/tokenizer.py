"""Texts -> token ids, and pairs of them -> sequences: special tokens, segments, and what is cut when it is too long.

A text is tokenised once, without special tokens and never truncated, and a pair is put together from two
such rows of ids. So a stored document needs no tokenizer at query time, and the tokenizer's truncation
state, which is what makes it unsafe to share between threads, is never touched.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from runoff.contracts import CheckpointError, Encoded, InputError, LengthRules, TokenIds, Truncation
from runoff.text.batching import unpacked
from runoff.text.joining import Joined, Joiner, PairTexts
from runoff.text.template import NO_IDS, Template
from runoff.text.truncation import Limits

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as HFTokenizer


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
        self._cuts_left = truncation_side == "left"
        self._joiner = Joiner(
            Template.read(backend, is_pair=True), Template.read(backend, is_pair=False), has_segments
        )
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
        return self._joiner.pair.special_count

    @property
    def has_second_segment(self) -> bool:
        """Whether the template gives the second text of a pair a segment of its own."""
        return any(self._joiner.pair.text_types)

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
        # Copies: an array that is kept shall not keep those of all the other texts.
        return [ids.copy() for ids in self.ids_of_texts(texts)]

    def ids_of_texts(self, texts: Sequence[str]) -> list[TokenIds]:
        """As `tokenize`, of what is known to be texts; views of one array."""
        return ids_of(self.encodings(texts))

    def encodings(self, texts: Sequence[str], first_row: int = 0) -> list[Encoding]:
        """What the `tokenizers` library makes of each text, on all its threads and without Python's lock.

        Raises `InputError` naming the first text with a lone surrogate, counted from `first_row`.
        """
        try:
            return self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as error:
            row = next(row for row, text in enumerate(texts) if not _is_encodable(text))
            raise InputError(
                f"text {first_row + row} holds a lone surrogate, which is no character: {texts[row]!r:.80}. "
                "Decode it with errors='replace' where it was read"
            ) from error

    def join(self, texts: PairTexts, rules: LengthRules) -> Joined:
        """The sequences of pairs and lone texts, cut by the rules and packed, longest first.

        Raises `TruncationError` where the rules refuse to cut: for "error", and for "document" where the query
        alone fills the pair; and `InputError` for a limit without room for a pair.
        """
        joiner = self._joiner
        limits = Limits(
            self.max_length if rules.max_length is None else rules.max_length,
            joiner.pair.special_count,
            joiner.lone.special_count,
            rules,
            self._cuts_left,
        )
        return joiner.join(texts, limits)

    def join_lone(self, ids: Sequence[TokenIds], max_length: int | None = None) -> Joined:
        """Each text with its special tokens, its end cut at the limit."""
        texts = PairTexts(ids, [NO_IDS] * len(ids), [False] * len(ids))
        return self.join(texts, LengthRules(max_length=max_length))

    def encode_single(self, ids: TokenIds, max_length: int | None = None) -> Encoded:
        """One text with its special tokens, its end cut at the limit."""
        return _encoded(self.join_lone([ids], max_length))[0]

    def encode_pair(
        self,
        query: TokenIds,
        document: TokenIds,
        truncation: Truncation = "longest_first",
        max_length: int | None = None,
    ) -> Encoded:
        """A pair with its special tokens, cut to the limit by the rule `truncation`. Raises what `join` raises."""
        texts = PairTexts([query], [document], [True])
        return _encoded(self.join(texts, LengthRules(truncation, "truncate", max_length)))[0]

    def encode_passages(
        self, query: TokenIds, document: TokenIds, truncation: Truncation, max_length: int | None = None
    ) -> list[Encoded]:
        """The pair, or where it is too long one pair for each overlapping passage of the document.

        The query is cut to what `truncation` leaves it; no token of the document is lost, so that
        `cut_tokens` of each are the query's.
        """
        texts = PairTexts([query], [document], [True])
        return _encoded(self.join(texts, LengthRules(truncation, "passages", max_length)))


def ids_of(encodings: Sequence[Encoding]) -> list[TokenIds]:
    """Token ids of each text, views of one array."""
    # `encoding.ids` makes a list anew: 4.2 us a text of 134 tokens with this way to an array, 5.5 with np.array.
    flat, ends = array("i"), [0]
    for encoding in encodings:
        flat.fromlist(encoding.ids)
        ends.append(len(flat))
    ids = np.frombuffer(flat, np.int32) if flat else NO_IDS
    return [ids[start:end] for start, end in itertools.pairwise(ends)]


def _encoded(joined: Joined) -> list[Encoded]:
    """The sequences of one pair, each with what the pair lost."""
    cut_tokens = int(joined.cut_tokens[0])
    return [replace(sequence, cut_tokens=cut_tokens) for sequence in unpacked(joined.block)]


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


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
