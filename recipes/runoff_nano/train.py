"""Distilling the teacher's scores, planned by the clock and resumable."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from model import score_pairs, start_model
from prepare import CANDIDATES
from start import SEED, arithmetic, pair_tokenizer, start_model_folder
from teacher import HELD_OUT_QUERIES, Prepared

MAX_TRAIN_TOKENS = 256  # per pair; only the longest passage cut below comes near it


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
    counts = {"queries": prepared.train_queries, "held_out_queries": HELD_OUT_QUERIES}
    counts["precision"] = arithmetic()
    log_line(args.out, {**state, **counts, "held_out": figures, "final": True})


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


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, listwise: float) -> torch.Tensor:
    """Pointwise MSE plus `listwise` times the KL divergence of the two softmaxes over each query's candidates."""
    divergence = functional.kl_div(
        functional.log_softmax(student, 1),
        functional.log_softmax(teacher, 1),
        log_target=True,
        reduction="batchmean",
    )
    return functional.mse_loss(student, teacher) + listwise * divergence


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
