"""A tokenizer whose ids are read off the text: one token a word, `w5` is id 5 + FIRST_WORD. No torch."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import models, pre_tokenizers, processors

from runoff.contracts import TokenIds
from runoff.text.tokenizer import Tokenizer

CLS, SEP, UNKNOWN, FIRST_WORD = 0, 1, 2, 3
WORD_COUNT = 400


def words(count: int, first: int = 0) -> str:
    """A text of `count` tokens: w<first> w<first + 1> ..."""
    return " ".join(f"w{number}" for number in range(first, first + count))


def word_ids(count: int, first: int = 0) -> TokenIds:
    """The ids of `words(count, first)`."""
    return np.arange(first, first + count, dtype=np.int32) + FIRST_WORD


def words_backend(single: str = "[CLS] $A [SEP]", pair: str = "[CLS] $A [SEP] $B:1 [SEP]:1") -> HFTokenizer:
    """The `tokenizers` library's own object, with BERT's template unless another is given."""
    vocabulary = {"[CLS]": CLS, "[SEP]": SEP, "[UNK]": UNKNOWN}
    vocabulary |= {f"w{number}": number + FIRST_WORD for number in range(WORD_COUNT)}
    backend = HFTokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return backend


def words_tokenizer(
    max_length: int | None = None, has_segments: bool = True, truncation_side: str = "right"
) -> Tokenizer:
    """Runoff's tokenizer over `words_backend`: 3 special tokens a pair, 2 a single text."""
    return Tokenizer(
        words_backend(), max_length=max_length, has_segments=has_segments, truncation_side=truncation_side
    )
