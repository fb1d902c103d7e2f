"""Which prompt goes in front of a text, by sentence-transformers' rules (notes C7)."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from runoff.contracts import InputError

logger = logging.getLogger(__name__)


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
