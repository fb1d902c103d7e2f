"""Question-passage pairs -> documents, queries and judgements, as `runoff index` and `runoff collect` read them.

Two kinds of queries: the questions of the pairs, and long ones, as searchers of abstracts write them. A long one is a
stretch of sentences cut out of a passage (an inverse cloze task, Lee et al., arXiv 1906.00300); what is left of the
passage is its answer.
"""

import argparse
import gzip
import hashlib
import json
import random
import re
from collections import Counter
from pathlib import Path

SEED = 12
PASSAGE_WORDS = (60, 90, 120, 160, 200)  # drawn for each passage: cheap on average, yet some pairs are long
QUERY_WORDS = 90
SOURCE_CAP = 480  # questions of one source: 25 sources of 104 to 21,173 pairs, and none may rule
OTHERS_CAP = 700  # passages of one source that answer no question here, to be found wrongly
LONG_QUERY_WORDS = (18, 30, 45, 70)  # drawn for each long query
LONG_SHARE = 0.3  # of all queries
SHORTEST_LEFT = 40  # words that must be left of a passage behind a long query
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])")


def prepare(data: Path, out: Path, wikipedia: Path | None) -> None:
    sources = read_sources(data)
    if wikipedia is not None:
        leads = [json.loads(line)["text"] for line in wikipedia.read_text("utf-8").splitlines()]
        sources["wikipedia_leads"] = [{"query": "", "positive": lead} for lead in leads]
    documents, queries, judgements, counts = {}, [], [], {}
    seen = set()
    for name in sorted(sources, key=lambda name: (len(sources[name]), name)):
        rows = sources[name]
        random.Random(SEED).shuffle(rows)
        kept = Counter()
        for row in rows:
            text = cut(row["positive"], passage_words(row["positive"]))
            key = "".join(c for c in row["query"].casefold() if c.isalnum())
            if key and key not in seen and kept["questions"] < SOURCE_CAP:
                seen.add(key)
                kept["questions"] += 1
                ask(name, cut(row["query"], QUERY_WORDS), text, documents, queries, judgements)
            elif (parts := long_query(text)) and kept["long"] < SOURCE_CAP * LONG_SHARE / (1 - LONG_SHARE):
                kept["long"] += 1
                ask(name, *parts, documents, queries, judgements)
            elif kept["documents alone"] < OTHERS_CAP:
                documents[document_id(text)] = text
                kept["documents alone"] += 1
        counts[name] = {"pairs": len(rows), **kept}
    write(out, documents, queries, judgements)
    files = {file.name: digest(file) for file in sorted(data.glob("*.jsonl.gz"))}
    about = {
        "seed": SEED,
        "documents": len(documents),
        "queries": len(queries),
        "sources": counts,
        "sha256": files,
    }
    (out / "sources.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    print(f"{len(queries)} queries, {len(documents)} documents in {out}")


def read_sources(data: Path) -> dict[str, list[dict]]:
    files = sorted(data.glob("*.jsonl.gz"))
    if not files:
        raise SystemExit(f"--data {data}: expected gzip JSON-lines files *.jsonl.gz, found none")
    found = {}
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            found[file.name.removesuffix(".jsonl.gz")] = [json.loads(line) for line in lines]
    return found


def ask(source: str, query: str, answer: str, documents: dict, queries: list, judgements: list) -> None:
    """Adds a query with its answer."""
    number = document_id(answer)
    documents[number] = answer
    id = f"{source}-{len(queries)}"
    queries.append({"id": id, "text": query})
    judgements.append((id, number))


def long_query(passage: str) -> tuple[str, str] | None:
    """(sentences of the passage, what is left of it), or None for a passage that is too short."""
    rng = random.Random(f"{SEED} {passage}")
    wanted = rng.choice(LONG_QUERY_WORDS)
    sentences = SENTENCE.split(passage)
    start = rng.randrange(len(sentences))
    taken, words = [], 0
    for sentence in sentences[start:]:
        if words >= wanted:
            break
        taken.append(sentence)
        words += len(sentence.split())
    left = [*sentences[:start], *sentences[start + len(taken) :]]
    if words > 2 * wanted or words < 8 or sum(len(sentence.split()) for sentence in left) < SHORTEST_LEFT:
        return None
    return " ".join(taken), " ".join(left)


def passage_words(passage: str) -> int:
    """How many words of this passage all parties see: a draw by its hash, the same for every row that holds it."""
    return PASSAGE_WORDS[hashlib.sha256(passage.encode()).digest()[0] % len(PASSAGE_WORDS)]


def cut(text: str, words: int) -> str:
    return " ".join(text.split()[:words])


def document_id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write(out: Path, documents: dict, queries: list, judgements: list) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "documents.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": id, "text": text}) + "\n" for id, text in documents.items())
    with open(out / "queries.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(query) + "\n" for query in queries)
    with open(out / "qrels.tsv", "w", encoding="utf-8") as file:
        file.write("query-id\tcorpus-id\tscore\n")
        file.writelines(f"{query}\t{document}\t1\n" for query, document in judgements)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of *.jsonl.gz with rows {query, positive}"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--wikipedia", type=Path, help="wikipedia.jsonl of recipes/demo_collection.py")
    options = parser.parse_args()
    prepare(options.data, options.out, options.wikipedia)
