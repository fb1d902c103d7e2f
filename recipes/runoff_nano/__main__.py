"""Train, export and judge runoff-nano: a 22.7M-parameter reranker made on two CPU cores in 85 minutes.

Five steps, each a subcommand: prepare (question-passage pairs -> candidates with teacher scores), train (-> a
checkpoint), export (-> sentence-transformers files in bf16), evaluate (-> NDCG@10 on judged collections) and card.
"""

import argparse
import os
from pathlib import Path

import torch

from card import card
from evaluate import evaluate
from export import export
from prepare import CANDIDATES, prepare
from start import SEED
from train import train

POOLING_HELP = "which token vectors the head reads: the first, or the mean of all"


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
    step = commands.add_parser("card", help="write the model card from what train and evaluate wrote")
    step.add_argument(
        "--run", type=Path, required=True, help="the folder that train wrote", dest="run_folder"
    )
    step.add_argument("--results", type=Path, required=True, help="the jsonl file that evaluate wrote")
    step.add_argument("--model", type=Path, required=True, help="exported model folder")
    step.set_defaults(run=card)
    return parser


if __name__ == "__main__":
    torch.manual_seed(SEED)
    options = arguments().parse_args()
    options.run(options)
