"""Whether a lower precision gives a model's scores: measured on a few texts that come with Runoff."""

from __future__ import annotations

import numpy as np

from runoff.checkpoint.config import Normalize
from runoff.checkpoint.layout import Checkpoint
from runoff.contracts import Batch, Encoded, Engine, FloatArray, LengthRules
from runoff.engine.reference import normalized
from runoff.text.batching import pack
from runoff.text.pairs import encode_pairs
from runoff.text.tokenizer import Tokenizer

LARGEST_NOISE = 0.03
"""Most that int8 scores may differ from bf16's, as a share of the scores' own spread, for `auto` to choose int8.

Between two models that were measured (benchmarks/results/precision.jsonl): runoff-nano in int8 has 1.8 % over 14,460
pairs, a rank correlation of 0.9998, and loses at most 0.0003 of NDCG@10 on five collections (it gains up to 0.010, two
standard errors of 30 queries); all-MiniLM-L6-v2 as an embedder has 3.8 % and loses up to 0.014, which is too much.
"""

# Six questions, each with an answer, a near miss and two texts about other things.
_QUESTIONS = (
    (
        "how do vaccines protect against disease",
        "A vaccine shows the immune system a harmless piece of a germ, so antibodies are ready before infection.",
        "Antibiotics kill bacteria or stop them from growing; they do nothing against a virus.",
    ),
    (
        "who wrote the novel Frankenstein",
        "Mary Shelley began Frankenstein in 1816, at the age of eighteen, and published it two years later.",
        "Dracula is an 1897 Gothic horror novel by the Irish author Bram Stoker.",
    ),
    (
        "python read a file line by line",
        "Iterate over the file object itself: for line in open(path): it reads one line at a time.",
        "In Java a Scanner splits its input into tokens by a delimiter pattern, which matches whitespace by default.",
    ),
    (
        "capital of Australia",
        "Canberra was founded in 1913 as a compromise between Sydney and Melbourne, and is the seat of government.",
        "Vienna is the capital of Austria and lies on the Danube.",
    ),
    (
        "can I return an item after 30 days",
        "Returns are accepted within 60 days of delivery if the article is unused and in its original packaging.",
        "Standard shipping takes three to five working days and is free for orders above 50 euros.",
    ),
    (
        "why is the sky blue",
        "Air molecules scatter short wavelengths of sunlight far more than long ones, as Lord Rayleigh found.",
        "At sunset light crosses more air, and reds and oranges are what remains of it.",
    ),
)


def check_pairs() -> list[tuple[str, str]]:
    """24 (query, document) pairs: of each question the answer, the near miss, and two answers to other questions."""
    answers = [answer for _, answer, _ in _QUESTIONS]
    pairs = []
    for i, (question, answer, near_miss) in enumerate(_QUESTIONS):
        others = [answers[(i + step) % len(answers)] for step in (1, 3)]
        pairs += [(question, text) for text in (answer, near_miss, *others)]
    return pairs


def check_batch(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Batch:
    """`check_pairs` as a model of this kind reads them."""
    sequences = check_sequences(checkpoint, tokenizer, check_pairs())
    return pack(sequences, range(len(sequences)))


def check_sequences(
    checkpoint: Checkpoint, tokenizer: Tokenizer, pairs: list[tuple[str, str]]
) -> list[Encoded]:
    """The pairs as a reranker reads them, or their texts, each once, as an embedder does."""
    if checkpoint.role == "embedder":
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        return [tokenizer.encode_single(ids) for ids in tokenizer.tokenize(texts)]
    return list(encode_pairs(tokenizer, pairs, "", LengthRules()).sequences)


def noise(checkpoint: Checkpoint, exact: Engine, quick: Engine, batch: Batch) -> float:
    """How far the quick engine's scores are from the exact one's: the spread of the differences over that of the
    scores. An embedder's scores are the similarities of the texts. Infinite where a score is not finite."""
    return difference(checkpoint, exact.forward(batch), quick.forward(batch))


def difference(checkpoint: Checkpoint, exact: FloatArray, quick: FloatArray) -> float:
    """`noise` of outputs that are there already."""
    outputs = [exact, quick]
    if not np.isfinite(outputs).all():
        return float("inf")
    wanted, found = (compared_scores(checkpoint, part) for part in outputs)
    spread = float(np.std(wanted))
    return float(np.std(found - wanted)) / spread if spread > 0.0 else float("inf")


def compared_scores(checkpoint: Checkpoint, outputs: FloatArray) -> FloatArray:
    """What is compared: a reranker's outputs, each label's around its mean; an embedder's similarities."""
    if checkpoint.role != "embedder":
        centred: FloatArray = outputs - outputs.mean(axis=0)
        return centred
    if not any(isinstance(step, Normalize) for step in checkpoint.model.head):
        outputs = normalized(outputs)
    above = np.triu_indices(len(outputs), k=1)
    similarities: FloatArray = (outputs @ outputs.T)[above]
    return similarities
