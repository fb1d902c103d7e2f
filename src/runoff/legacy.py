"""The arguments of sentence-transformers' calls that Runoff has other names or no need for.

Whoever moves over changes an import line, not the calls: what sentence-transformers 6.2 still takes under an
older name is taken here too, with a warning said once a name.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from runoff.contracts import InputError, Truncation

logger = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])

# Its constructors': old -> new. The source is sentence_transformers/util/decorators.py of release 6.2.
CONSTRUCTOR_NAMES = {
    "model_name": "model_name_or_path",
    "automodel_args": "model_kwargs",
    "tokenizer_args": "processor_kwargs",
    "tokenizer_kwargs": "processor_kwargs",
    "config_args": "config_kwargs",
    "cache_dir": "cache_folder",
    "default_activation_function": "activation_fn",
}
# What CrossEncoder took by position after the model's name, up to release 5.3.
CONSTRUCTOR_PLACES = ("num_labels", "max_length", "activation_fn", "device")
EMBEDDER_NAMES = {"tokenizer_kwargs": "processor_kwargs", "use_auth_token": "token"}
CALL_NAMES = {"sentences": "inputs", "activation_fct": "activation_fn"}

# Arguments that change nothing: the first did nothing there for years, the others never did in rank().
_WITHOUT_EFFECT = {
    "predict": {"num_workers"},
    "rank": {"num_workers", "apply_softmax", "convert_to_numpy", "convert_to_tensor"},
}
_TRUNCATIONS: dict[Any, Truncation] = {
    True: "longest_first",
    "longest_first": "longest_first",
    "only_second": "document",
}

_SAID: set[str] = set()


def takes_older_names(names: dict[str, str], places: tuple[str, ...] = ()) -> Callable[[Function], Function]:
    """A decorator of methods: renames the keywords in `names`, and names what comes by position after the first
    argument by `places`. Where both names are given, the new one counts."""

    def decorated(method: Function) -> Function:
        @functools.wraps(method)
        def renamed(self: Any, *arguments: Any, **options: Any) -> Any:
            if places and len(arguments) > 1:
                named = dict(zip(places, arguments[1:], strict=False))
                _say_once(f"{', '.join(named)} by position: give them by name")
                arguments = (*arguments[:1], *arguments[1 + len(places) :])
                options = {**named, **options}
            for old in sorted(names.keys() & options.keys()):
                _say_once(f"the argument {old} is now called {names[old]}")
                value = options.pop(old)
                options.setdefault(names[old], value)
            return method(self, *arguments, **options)

        return cast(Function, renamed)

    return decorated


def _say_once(message: str) -> None:
    if message not in _SAID:
        _SAID.add(message)
        logger.warning("an older form of a sentence-transformers call: %s", message)


def refuse_unknown(method: str, options: Mapping[str, Any]) -> None:
    """Raises `InputError` for arguments that only sentence-transformers can serve, `TypeError` for one that no
    release knew."""
    if any(options.get(name) is not None for name in ("pool", "chunk_size")):
        raise InputError(
            "pool and chunk_size are for sentence-transformers' worker processes; Runoff needs none"
        )
    if unknown := sorted(set(options) - {"pool", "chunk_size"} - _WITHOUT_EFFECT[method]):
        raise TypeError(f"{method}() got unexpected arguments {unknown}")


def check_device(device: str | Sequence[str] | None, own: str, name: str) -> None:
    """Raises `InputError` where a call names another device than the one that the model `name` runs on."""
    given = device if isinstance(device, (list, tuple)) else [device]
    devices = [str(item) for item in given if item is not None]
    if any(item != own for item in devices) and ",".join(devices) != own:
        raise InputError(
            f"this model runs on {own}; to run it on {', '.join(devices)}, load it there: "
            f"CrossEncoder({name!r}, device=...)"
        )


def text_processing(processing_kwargs: Mapping[str, Any] | None) -> tuple[int | None, Truncation | None]:
    """(max_length, truncation) of a call's `processing_kwargs={"text": {...}}`; None where it says nothing.

    Raises `InputError` for settings of other inputs than texts, and for truncations that Runoff has not.
    """
    given = dict(processing_kwargs or {})
    text = dict(given.pop("text", None) or {})
    length, rule = text.pop("max_length", None), text.pop("truncation", None)
    text.pop("padding", None)  # nothing is ever padded
    if given or text or (rule is not None and rule not in _TRUNCATIONS):
        raise InputError(
            'processing_kwargs may hold {"text": {"max_length": tokens, "truncation": True, "longest_first" or '
            f'"only_second"}}}}, got {processing_kwargs!r}'
        )
    return length, None if rule is None else _TRUNCATIONS[rule]
