"""The model card of a quantized checkpoint: what it came from, what it costs, how it is loaded."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runoff.checkpoint.quantized import PACKED_WEIGHTS, QUANTIZATION

# What of a card's front matter is true of a copy with other numbers. Results, widgets and libraries are not.
_KEPT_KEYS = (
    *("license", "license_name", "license_link", "language", "pipeline_tag", "base_model"),
    *("datasets", "tags"),
)
_KIND_NAMES = {"i8": "int8", "i16": "16-bit fixed point", "f32": "fp32"}


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card says beyond the checkpoint's description `about`: each matrix's kind, sizes in bytes, the command."""

    about: Mapping[str, Any]
    kinds: Mapping[str, str]
    bytes_before: int
    bytes_after: int
    command: str
    folder_name: str


def model_card(readme: str | None, facts: CardFacts) -> str:
    """README.md of a quantized checkpoint; `readme` is that of the model it was made from."""
    source = facts.about["source"]["name"]
    return f"""---
{_front_matter(readme, source)}
---
# {facts.folder_name}

`{source}` in {facts.about["precision"]}, packed for Runoff's CPU engine: it is loaded by memory map, as it lies on the
disk. Only Runoff reads it; sentence-transformers and transformers cannot load it and need `{source}` itself.

```python
from runoff import {_loader(facts)}

model = {_loader(facts)}("path/to/{facts.folder_name}")
```

Made by Runoff {facts.about["runoff_version"]}:

```
{facts.command}
```

| | before | after |
|---|---|---|
| weights | {facts.bytes_before / 1e6:.1f} MB | {facts.bytes_after / 1e6:.1f} MB |

## How exact

{_measured(facts)}

{_calibrated(facts)}## Precision of each matrix

{_kinds(facts.kinds)}

Everything else is not rounded further: fp32, and the token table in 16 bits. `{QUANTIZATION}` has all of this for
programs, and the SHA-256 of the weights it was made from; `{PACKED_WEIGHTS}` has the weights.
"""


def _loader(facts: CardFacts) -> str:
    return "Embedder" if facts.about["role"] == "embedder" else "CrossEncoder"


def _measured(facts: CardFacts) -> str:
    measured, is_embedder = facts.about["measured"], facts.about["role"] == "embedder"
    scores = "similarities of the texts" if is_embedder else "scores"
    smoothed = facts.about["smoothed"]
    text = f"""\
Compared with the same model in fp32, by its {scores}, on {measured["on"]}:

| measure | value |
|---|---|
| noise (spread of the differences / spread of the scores) | {measured["noise"]:.4f} |
| noise asked for, at most | {measured["target"]:g} |
| Spearman's rank correlation | {measured["spearman"]:.5f} |
| largest difference | {measured["largest_difference"]:.4f} |
"""
    if facts.about["precision"] == "int8":
        kept = f"kept for {', '.join(smoothed)}" if smoothed else "left out: it did not lower the noise"
        text += f"""
The same pairs decided what is kept in 16 bits. int8 everywhere had a noise of {measured["plain_noise"]:.4f}.
Smoothing outliers in a matrix's inputs, which leaves fp32 scores as they are, was {kept}
(in this order, each with those kept before it: {_trials(measured["smoothing_trials"])}).
"""
    return text.rstrip()


def _calibrated(facts: CardFacts) -> str:
    """What became of a calibration that lay beside the model."""
    moved = facts.about["measured"].get("largest_probability_difference")
    if moved is None:
        return ""
    return f"""\
## Probabilities

`calibration.json` is that of `{facts.about["source"]["name"]}`, fitted to its scores and not to these. On the pairs
above it gives probabilities that differ by {moved:.4f} at most. Where that is too much, fit it anew:
`runoff calibrate {facts.folder_name} --judged FOLDER`.

"""


def _trials(noises: Mapping[str, float]) -> str:
    return ", ".join(f"{part} {noise:.4f}" for part, noise in noises.items())


def _kinds(kinds: Mapping[str, str]) -> str:
    counts = Counter(kinds.values())
    lines = [f"- {_KIND_NAMES[kind]}: {counts[kind]} of {len(kinds)} matrices" for kind in sorted(counts)]
    if len(counts) > 1:
        finer = ", ".join(f"`{name}`" for name, kind in kinds.items() if kind != "i8")
        lines.append(f"\nNot in int8, since they cost the most noise for their size: {finer}")
    return "\n".join(lines)


def _front_matter(readme: str | None, source: str) -> str:
    """The lines of the source's own front matter that stay true; `base_model` is the source where none is named."""
    kept = _kept_blocks(readme or "")
    if "base_model" not in kept and re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        kept["base_model"] = f"base_model: {source}"
    tags = re.sub(r"^\s*-\s*sentence-transformers\s*\n?", "", kept.pop("tags", ""), flags=re.MULTILINE)
    return "\n".join([*kept.values(), "library_name: runoff", *([tags.rstrip()] if tags.strip() else [])])


def _kept_blocks(readme: str) -> dict[str, str]:
    """Key -> its lines, of the front matter at the top of a card."""
    match = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", readme, re.DOTALL)
    blocks: dict[str, list[str]] = {}
    key = ""
    for line in match[1].splitlines() if match else ():
        if found := re.match(r"([A-Za-z_][\w-]*):", line):
            key = found[1]
        blocks.setdefault(key, []).append(line)
    return {key: "\n".join(lines) for key, lines in blocks.items() if key in _KEPT_KEYS}
