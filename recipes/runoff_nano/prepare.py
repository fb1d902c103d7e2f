"""Question-passage pairs -> candidates with what the teacher is made of."""

import gzip
import hashlib
import json
import os
import random
from collections import defaultdict
from pathlib import Path

import bm25s
import numpy as np
import torch
from torch.nn import functional

from files import write_atomically
from first_stage import bm25_index, bm25_search
from start import SEED, autocast, padded, pair_tokenizer, start_model_folder

PASSAGE_WORDS = (60, 60, 90, 90, 140, 200)  # drawn per passage: cheap on average, yet some pairs are long
QUERY_WORDS = 80
# Sources with many near-alike or synthetic queries are capped, so that short real questions keep their share.
SOURCE_CAPS = {
    "squad1_sent_nqg": 9000,
    "medquad": 3500,
    "msdocs_titles": 3000,
    "squadshifts_amazon": 3000,
    "squadshifts_reddit": 3000,
    "squadshifts_new_wiki": 5000,
    "msdocs_faq": 2500,
}
# Candidates of a query: its positive, then this many from each place (BM25 ranks of its own source, nearest by
# cosine in its own source, BM25 over all sources, chance).
BM25_TOP, BM25_NEXT, COSINE_NEAR, ACROSS, CHANCE = 2, 1, 2, 1, 1
CANDIDATES = 1 + BM25_TOP + BM25_NEXT + COSINE_NEAR + ACROSS + CHANCE


def read_pairs(data: Path) -> list[dict]:
    """Capped rows {source, query, positive}, each query once over all sources; small sources come first."""
    files = sorted(data.glob("*.jsonl.gz"))
    if not files:
        raise SystemExit(f"--data {data}: expected gzip JSON-lines files *.jsonl.gz, found none")
    per_source = {}
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            per_source[file.name.removesuffix(".jsonl.gz")] = [json.loads(line) for line in lines]
    rows, seen = [], set()
    for source in sorted(per_source, key=lambda name: (len(per_source[name]), name)):
        candidates = per_source[source]
        random.Random(SEED).shuffle(candidates)
        kept = 0
        for row in candidates:
            key = "".join(c for c in row["query"].casefold() if c.isalnum())
            if key and key not in seen and kept < SOURCE_CAPS.get(source, len(candidates)):
                seen.add(key)
                kept += 1
                rows.append(
                    {
                        "source": source,
                        "query": cut(row["query"], QUERY_WORDS),
                        "positive": cut(row["positive"], passage_words(row["positive"])),
                    }
                )
    return rows


def passage_words(passage: str) -> int:
    """How many words of this passage all parties see: a draw by its hash, the same for every row that holds it."""
    return PASSAGE_WORDS[hashlib.sha256(passage.encode()).digest()[0] % len(PASSAGE_WORDS)]


def cut(text: str, words: int) -> str:
    return " ".join(text.split()[:words])


def embed(texts: list[str], batch_tokens: int = 8192) -> np.ndarray:
    """Unit vectors [texts, 384] of all-MiniLM-L6-v2, texts cut at 256 tokens."""
    from transformers import AutoModel

    folder = start_model_folder()
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    tokenizer = pair_tokenizer(folder, 256)
    encoded = tokenizer.encode_batch(texts)
    order = sorted(range(len(texts)), key=lambda i: -len(encoded[i].ids))
    vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, batch_tokens // len(encoded[order[start]].ids))]
        features = padded([encoded[i] for i in rows])
        with torch.inference_mode(), autocast():
            hidden = model(**features).last_hidden_state
        mask = features["attention_mask"].unsqueeze(-1)
        mean = (hidden.float() * mask).sum(1) / mask.sum(1)
        vectors[rows] = functional.normalize(mean, dim=1).numpy()
        start += len(rows)
        if start // 4000 != (start - len(rows)) // 4000:
            print(f"embedded {start} of {len(order)}", flush=True)
    return vectors


def draw_candidates(
    rows: list[dict], passages: list[str], vectors, query_vectors
) -> tuple[np.ndarray, np.ndarray]:
    """(passage numbers [rows, CANDIDATES], BM25 share [rows, CANDIDATES]); column 0 is the positive.

    The BM25 share is the score divided by the best score that any passage gets for that query.
    """
    number = {passage: i for i, passage in enumerate(passages)}
    chosen = np.empty((len(rows), CANDIDATES), np.int32)
    share = np.zeros((len(rows), CANDIDATES), np.float32)
    everything, stemmer = bm25_index(passages)
    by_source = defaultdict(list)
    for i, row in enumerate(rows):
        by_source[row["source"]].append(i)
    for source, members in by_source.items():
        own = sorted({number[rows[i]["positive"]] for i in members})
        queries = [rows[i]["query"] for i in members]
        near, _ = bm25_search(*bm25_index([passages[p] for p in own]), queries, 40)
        across, _ = bm25_search(everything, stemmer, queries, 10)
        cosine = query_vectors[members] @ vectors[own].T
        for at, i in enumerate(members):
            rng = np.random.default_rng([SEED, i])
            positive = number[rows[i]["positive"]]
            lists = (
                [own[p] for p in near[at][:8]],
                [own[p] for p in near[at][8:]],
                [own[p] for p in np.argsort(-cosine[at])[:20]],
                list(across[at]),
                own,
            )
            chosen[i] = one_draw(rng, positive, lists, len(passages))
        print(f"drew candidates for {source}: {len(members)} queries, {len(own)} passages", flush=True)
    for i, row in enumerate(rows):
        tokens = bm25s.tokenize(
            [row["query"]], stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False
        )
        scores = everything.get_scores(tokens[0])
        share[i] = scores[chosen[i]] / max(float(scores.max()), 1e-6)
    return chosen, share


def one_draw(rng, positive: int, lists: tuple, total: int) -> list[int]:
    """The positive, then a set number from each list without repeats, filled up by chance from all passages."""
    picked = [positive]
    for ranked, wanted in zip(lists, (BM25_TOP, BM25_NEXT, COSINE_NEAR, ACROSS, CHANCE), strict=True):
        fresh = [int(p) for p in rng.permutation(np.array(ranked, np.int64)) if p not in picked]
        picked += fresh[:wanted]
    while len(picked) < CANDIDATES:
        p = int(rng.integers(total))
        if p not in picked:
            picked.append(p)
    return picked


def prepare(args) -> None:
    rows = read_pairs(args.data)
    random.Random(SEED).shuffle(rows)
    rows = rows[: args.queries]
    passages = sorted({row["positive"] for row in rows})
    print(f"{len(rows)} queries, {len(passages)} passages", flush=True)
    vectors, query_vectors = embed(passages), embed([row["query"] for row in rows])
    chosen, share = draw_candidates(rows, passages, vectors, query_vectors)
    cosine = np.einsum("qd,qcd->qc", query_vectors, vectors[chosen])
    args.out.mkdir(parents=True, exist_ok=True)
    write_atomically(
        args.out / "texts.json",
        json.dumps(
            {
                "sources": [r["source"] for r in rows],
                "queries": [r["query"] for r in rows],
                "passages": passages,
            }
        ).encode(),
    )
    with open(args.out / "candidates.partial", "wb") as file:
        np.savez(file, chosen=chosen, cosine=cosine, share=share)
    os.replace(args.out / "candidates.partial", args.out / "candidates.npz")
