"""What `prepare` wrote, with the teacher's scores."""

import json
from pathlib import Path

import numpy as np
import torch

HELD_OUT_QUERIES = 600
BM25_WEIGHT, POSITIVE_BONUS = 0.5, 1.0  # of the teacher, in standard deviations of the cosine


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
