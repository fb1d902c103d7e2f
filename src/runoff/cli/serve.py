"""`runoff serve`: a reranker, and an index if there is one, over HTTP."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.cli.options import (
    CommandParser,
    Commands,
    add_model_options,
    add_text_options,
    new_command,
    share,
)

if TYPE_CHECKING:
    from runoff.contracts import FloatArray, PackedEngine, Scorer
    from runoff.engine.choose import Choice
    from runoff.model import ModelOptions
    from runoff.search.pipeline import Search
    from runoff.serve.model import Model
    from runoff.serve.settings import Settings

EXAMPLES = """\
  runoff serve --model runoff-nano                                 http://127.0.0.1:8080/rerank, /docs
  runoff serve --model cross-encoder/ettin-reranker-32m-v1 --replicas 2 --threads 2
  runoff serve --index notes.index                                 also /search
  RUNOFF_SERVE_API_KEY=secret runoff serve --host 0.0.0.0 --port 80
  curl -s localhost:8080/rerank -H 'content-type: application/json' \\
      -d '{"query": "who wrote Emma", "documents": ["Jane Austen", "Emma Stone"]}'
"""

_REPEATED = " in the environment"

GROUPS = {
    "address": "address and answers",
    "workers": "workers and batches",
    "limits": "limits",
    "times": "times",
    "access": "access and log",
}


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "serve",
        run,
        summary="answer rerank and search requests over HTTP",
        description="Serves a reranker to the clients of Cohere, Jina, text-embeddings-inference, vLLM and infinity,\n"
        "until it is told to stop. Every flag may be an environment variable instead: --max-documents is\n"
        "RUNOFF_SERVE_MAX_DOCUMENTS (a flag wins).",
        examples=EXAMPLES,
    )
    add_model_options(parser)
    add_text_options(parser)
    group = parser.add_argument_group("search")
    group.add_argument("--index", metavar="PATH", help="made by `runoff index`; adds the route /search")
    group.add_argument(
        "--retrieve",
        choices=("bm25", "dense", "hybrid"),
        default="bm25",
        help="how candidates are found (default: %(default)s)",
    )
    group.add_argument("--embedder", metavar="NAME", help="of the query's vector (default: the index's own)")
    group.add_argument(
        "--rerank-weight",
        metavar="SHARE",
        type=share,
        default=1.0,
        help="from 0 to 1: the rest is the first stage's (default: %(default)s)",
    )
    parser.later(_add_settings)


def _add_settings(parser: CommandParser) -> None:
    """A flag for each setting, and for every flag of the command its environment variable."""
    from runoff.serve.settings import Settings

    groups = {name: parser.add_argument_group(title) for name, title in GROUPS.items()}
    for setting in fields(Settings):
        flag = f"--{setting.name.replace('_', '-')}"
        about: Mapping[str, Any] = setting.metadata
        text = about["help"].replace("%", "%%")
        named = {"metavar": about["metavar"]} if about["metavar"] else {}
        if isinstance(setting.default, bool):
            groups[about["group"]].add_argument(flag, action="store_true", help=text)
        elif isinstance(setting.default, tuple):
            groups[about["group"]].add_argument(flag, action="append", help=text, **named)
        else:
            if "default:" not in text and setting.default != "":
                text += (
                    f" (default: {setting.default:g})"
                    if isinstance(setting.default, float)
                    else " (default: %(default)s)"
                )
            groups[about["group"]].add_argument(
                flag,
                type=_type_of(setting.default, about),
                choices=about.get("choices"),
                default=setting.default,
                help=text,
                **({} if "choices" in about else named),
            )
    set_from_environment(parser, os.environ)


def _type_of(default: Any, about: Mapping[str, Any]) -> Callable[[str], Any]:
    if isinstance(default, str):
        return str
    least = about.get("minimum", 1)
    kind = (
        "a number of seconds above 0" if isinstance(default, float) else f"a whole number of {least} or more"
    )

    def read(text: str) -> Any:
        try:
            value = type(default)(text)
        except ValueError:
            value = float("nan")
        if not (0 < value < float("inf") if isinstance(default, float) else least <= value):
            raise argparse.ArgumentTypeError(f"expected {kind}, got {text!r}")
        return value

    return read


def set_from_environment(parser: CommandParser, environment: Mapping[str, str]) -> None:
    """Makes what the environment says of each flag its default; a value that cannot be meant is an error of the
    command line."""
    from runoff.serve.settings import ENVIRONMENT

    for action in parser._actions:
        flag = next((name for name in action.option_strings if name.startswith("--")), None)
        if flag in (None, "--help"):
            continue
        variable = ENVIRONMENT + str(flag)[2:].replace("-", "_").upper()
        if (text := environment.get(variable)) is None or text == "":
            continue
        try:
            # argparse would add a repeated flag's values to its default: that one is kept apart.
            suffix = _REPEATED if isinstance(action, argparse._AppendAction) else ""
            parser.set_defaults(**{action.dest + suffix: _value_of(action, text)})
        except (argparse.ArgumentTypeError, ValueError) as error:
            parser.error(f"{variable}: {error}")


def _value_of(action: argparse.Action, text: str) -> Any:
    """An environment variable's text as the flag's value."""
    if action.nargs == 0:
        words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if text.lower() not in words:
            raise ValueError(f"expected 1 or 0, got {text!r}")
        return words[text.lower()]
    if isinstance(action, argparse._AppendAction):
        return [text]
    value = action.type(text) if callable(action.type) else text
    if action.choices is not None and value not in action.choices:
        raise ValueError(f"expected one of {', '.join(action.choices)}, got {text!r}")
    return value


def run(options: argparse.Namespace) -> None:
    settings = _settings(options)
    _check_installed()
    from runoff.serve.run import serve

    model = load_model(options, settings)
    serve(model, settings, _search_builder(options) if options.index else None)


def _settings(options: argparse.Namespace) -> Settings:
    from runoff.serve.settings import Settings

    given: dict[str, Any] = {setting.name: getattr(options, setting.name) for setting in fields(Settings)}
    repeated = {setting.name for setting in fields(Settings) if isinstance(setting.default, tuple)}
    for name in repeated:
        given[name] = tuple(given[name] or getattr(options, name + _REPEATED, ()))
    return Settings(**given)


def _check_installed() -> None:
    """Raises `MissingExtraError` where the HTTP server is not installed."""
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        from runoff.contracts import MissingExtraError

        raise MissingExtraError(
            f"runoff serve needs the extra: pip install 'runoff[serve]' ({error})"
        ) from error


def load_model(options: argparse.Namespace, settings: Settings) -> Model:
    """The server's half of the model that the options name, and the recipe of the workers' half; no weights are read.

    Raises `UnsupportedModelError` for a model of several labels.
    """
    from runoff.contracts import LengthRules, UnsupportedModelError
    from runoff.engine.threads import thread_count
    from runoff.model import ModelOptions, find, load_native_tokenizer
    from runoff.serve.model import TokenModel
    from runoff.text.prompts import checked_default, merged_prompts, resolve_prompt

    asked = ModelOptions(
        device=options.device,
        precision=options.precision,
        threads=options.threads or max(1, thread_count() // settings.replicas),
        max_length=options.max_length,
        revision=options.revision,
        local_files_only=options.local_files_only,
    )
    found = find(options.model, "reranker", asked)
    # The very files that were read here: a hub's branch may move while a worker is replaced.
    kept = replace(asked, local_files_only=True)
    checkpoint = found.checkpoint
    if checkpoint is None or found.choice.engine == "sentence-transformers":
        return _text_model(options, settings, found.folder, kept)
    if checkpoint.model.output_size != 1:
        raise UnsupportedModelError(
            f"{options.model} gives {checkpoint.model.output_size} labels a pair; a reranker has one"
        )
    prompts = merged_prompts(checkpoint.prompts, None)
    default = checked_default(None, checkpoint.default_prompt_name, prompts)
    return TokenModel(
        name=options.model,
        tokenizer=load_native_tokenizer(found, asked),
        prompt=resolve_prompt(None, None, prompts, default),
        rules=LengthRules(options.truncation, options.long_documents),
        shown=_shown(settings.scores, checkpoint.activation),
        build=partial(build_engine, str(found.folder), kept),
    )


def _text_model(options: argparse.Namespace, settings: Settings, folder: Path, kept: ModelOptions) -> Model:
    """The server's half of a model that sentence-transformers runs. `InputError` for what only ours can do."""
    from runoff.contracts import InputError
    from runoff.serve.text_model import TextModel

    if (options.truncation, options.long_documents) != ("longest_first", "truncate"):
        raise InputError(
            f"{options.model} is run by sentence-transformers, which cuts 'longest_first' only; got --truncation "
            f"{options.truncation}, --long-documents {options.long_documents}"
        )
    if settings.scores == "model":
        raise InputError(
            f"{options.model} is run by sentence-transformers in the workers, its activation is not known here: use "
            "--scores sigmoid or raw"
        )
    return TextModel(
        name=options.model,
        shown=_shown(settings.scores, "identity"),
        build=partial(build_text_engine, str(folder), kept),
    )


def _shown(form: str, of_model: str) -> Callable[[FloatArray], FloatArray]:
    """What turns raw scores [N] into those that are answered."""
    from runoff.activation import Activation

    activation = Activation.of({"sigmoid": "sigmoid", "raw": "identity", "model": of_model}[form])
    return lambda raw: activation(raw.reshape(-1, 1)).reshape(-1)


def build_engine(folder: str, options: ModelOptions) -> tuple[PackedEngine, dict[str, Any]]:
    """A worker's engine, and what it is."""
    from runoff.model import find, load_native

    native = load_native(find(folder, "reranker", options), options)
    return native.engine, _facts(native.choice)


def build_text_engine(folder: str, options: ModelOptions) -> tuple[PackedEngine, dict[str, Any]]:
    """A worker's sentence-transformers model as an engine, and what it is."""
    from runoff.contracts import UnsupportedModelError
    from runoff.crossencoder import CrossEncoder
    from runoff.serve.text_model import TextEngine

    reranker = CrossEncoder(
        folder,
        device=options.device,
        precision=options.precision,
        max_length=options.max_length,
        local_files_only=True,
    )
    if reranker.num_labels != 1:
        raise UnsupportedModelError(f"{folder} gives {reranker.num_labels} labels a pair; a reranker has one")
    return TextEngine(reranker), _facts(reranker.choice)


def _facts(choice: Choice) -> dict[str, Any]:
    return {
        "engine": choice.engine,
        "device": choice.device,
        "precision": choice.precision,
        "instruction_set": choice.instruction_set,
        "threads": choice.threads,
        "reason": choice.reason,
    }


def _search_builder(options: argparse.Namespace) -> Callable[[Scorer], Search]:
    """Searches of the index that the options name, by whichever reranker they are given."""
    from runoff.cli.search import query_embedder
    from runoff.search.index import Index
    from runoff.search.pipeline import Search, SearchOptions
    from runoff.search.settings import load_settings

    path = Path(options.index).expanduser()
    embedder = query_embedder(options, load_settings(path))
    index = Index.open(path, embedder=embedder)
    how = SearchOptions(retrieve=options.retrieve, rerank_weight=options.rerank_weight)
    return lambda scorer: Search(index, scorer, embedder, how)
