"""Which prompt goes in front of a text, by sentence-transformers' rules (notes C7)."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from runoff.contracts import InputError

logger = logging.getLogger(__name__)


def merged_prompts(saved: Mapping[str, str | None], given: Mapping[str, str | None] | None) -> dict[str, str]:
    """The model's own prompts, replaced by the caller's; None stands for one that is not set."""
    merged = {name: text or "" for name, text in saved.items()}
    for name, text in (given or {}).items():
        if text is not None or name not in merged:
            merged[name] = text or ""
    return merged


def checked_default(given: str | None, saved: str | None, prompts: Mapping[str, str]) -> str | None:
    """The name of the default prompt: the caller's or else the model's; `InputError` where no prompt has it."""
    name = saved if given is None else given
    if name is not None and name not in prompts:
        raise InputError(
            f"the default prompt is to be {name!r}, but this model's prompts are {sorted(prompts) or 'none'}; "
            "pass prompts= with that name, or another default_prompt_name"
        )
    return name


def resolve_prompt(
    prompt: str | None, prompt_name: str | None, prompts: Mapping[str, str], default_prompt_name: str | None
) -> str:
    """The prompt itself, else the one named, else the default one, else "".

    Raises `InputError` for a name that is not among `prompts`.
    """
    if prompt is not None:
        if prompt_name is not None:
            logger.warning(
                "both prompt and prompt_name were given; the prompt is used, the name %r is not", prompt_name
            )
        return prompt
    name = default_prompt_name if prompt_name is None else prompt_name
    if name is None:
        return ""
    if name not in prompts:
        raise InputError(f"no prompt is named {name!r}; this model has {sorted(prompts) or 'none'}")
    return prompts[name]
