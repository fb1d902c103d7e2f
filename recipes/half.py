"""Proof of fidelity: a student of half the layers of what `recipes/runoff_nano` made, judged beside its teacher.

    python recipes/half.py --made BUILD --judged FOLDER...

BUILD is what recipes/runoff_nano wrote; its run is the teacher. The student takes every other layer of it, or goes on
from an earlier student (--student), and learns its raw logits by pointwise MSE, the published recipe. The judged
collections are seen by neither.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

LAYERS = 3  # of the teacher's six


def commands(made: Path, judged: list[Path], results: Path, student: Path | None) -> list[list[str]]:
    teacher = made / "run" / "model"
    candidates, scores, rows, run = (
        made / f"half-{name}" for name in ("candidates", "scores", "rows", "run")
    )
    thinned = ["--scores", made / "cosine", "--rule", "band", "--head", 2, "--medium", 2, "--band", 0.15, 0.9]
    start = ["--backbone", student] if student else ["--backbone", teacher, "--layers", LAYERS]
    lines = [
        ["sample", made / "candidates", candidates, *thinned, "--seed", 13],
        ["teach", candidates, scores, "--model", teacher],
        ["label", candidates, rows, "--scores", scores],
        [
            *("train", rows, run, *start, "--loss", "mse", "--group", 1, "--head-rate", 1),
            *("--max-length", 192, "--epochs", 0.9, "--every", 0.25, "--held-out", 200),
        ],
        [
            *("judge", *judged, "--reranker", teacher, "--reranker", run / "model", "--precision", "bf16"),
            *("--limit", 100, "--figures", results),
        ],
    ]
    return [[str(word) for word in line] for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--made", type=Path, required=True, help="the folder that recipes/runoff_nano wrote")
    parser.add_argument(
        "--judged", type=Path, nargs="+", required=True, help="BEIR folders; never trained on"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/half.jsonl"), help="default: %(default)s"
    )
    parser.add_argument("--student", type=Path, help="an earlier student to go on with")
    options = parser.parse_args()
    for line in commands(options.made, options.judged, options.out, options.student):
        print("$ runoff " + shlex.join(line), flush=True)
        done = subprocess.run([sys.executable, "-m", "runoff", *line], check=False)
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main()
