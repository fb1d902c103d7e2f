"""A model that cannot be used is told by every command, with what to do, and costs nothing that is stored."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runoff.search.index import Index

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]
Stored = Callable[[Path], dict[str, str]]

COMMANDS = {
    "rank": ("rank", "query", "text"),
    "score": ("score", "query", "text"),
    "search": ("search", "boiler", "--index", "notes.index"),
    "index": ("index", "notes.index", "--from", "notes.jsonl"),
    "index anew": ("index", "new.index", "--from", "notes.jsonl"),
    "retokenize": ("index", "notes.index", "--retokenize"),
    "demo": ("demo", "boiler", "--documents", "notes.jsonl", "--index", "new.index"),
    "info": ("info",),
}


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def overwrite_header(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(b"\0" * 64 + weights.read_bytes()[64:])


DAMAGE: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "cut": (cut, ("model.safetensors is not a whole safetensors file", "download the checkpoint again")),
    "corrupt": (
        overwrite_header,
        ("model.safetensors is not a whole safetensors file", "download the checkpoint again"),
    ),
    "without weights": (lambda folder: (folder / "model.safetensors").unlink(), ("safetensors",)),
    "torn config": (
        lambda folder: (folder / "config.json").write_text('{"model_type":'),
        ("config.json is not valid JSON", "the file is damaged", "again"),
    ),
    "torn tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("nope"),
        ("tokenizer.json cannot be read", "the file is damaged", "again"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_damaged_checkpoint_is_named_and_loses_nothing(
    shell: Shell, notes_index: Path, tiny_copy: Tiny, stored: Stored, command: str, damage: str
) -> None:
    before, settings = stored(notes_index), Index.open(notes_index).settings
    folder = tiny_copy("bert")
    spoil, said = DAMAGE[damage]
    spoil(folder)
    shell(*COMMANDS[command], "--model", folder).check_refused(2, *said)
    assert stored(notes_index) == before
    assert Index.open(notes_index).settings == settings
    assert not notes_index.with_name("new.index").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_model_says_where_was_looked_and_what_to_do(
    shell: Shell, notes_index: Path, stored: Stored, command: str
) -> None:
    before, settings = stored(notes_index), Index.open(notes_index).settings
    answer = shell(*COMMANDS[command], "--model", "no-such/model")
    said = ("no-such/model is not in the local cache", "HF_HUB_OFFLINE", "Download it once", "a local folder")
    answer.check_refused(2, *said)
    if command == "demo":
        assert "leave --model out: runoff-nano comes with Runoff" in answer.err
    assert stored(notes_index) == before
    assert Index.open(notes_index).settings == settings
    assert not notes_index.with_name("new.index").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./no-folder", ("no folder './no-folder'", "a model folder or a hub id")),
        ("notes.jsonl", ("notes.jsonl is a file", "the folder that holds a model's config.json")),
        ("no-such-model", ("cross-encoder/no-such-model", "a local folder")),
        (
            "empty",
            ("empty holds neither config.json nor modules.json", "expected a model folder as saved by"),
        ),
    ],
)
def test_what_is_no_model_is_told_apart(shell: Shell, notes: Path, name: str, said: tuple[str, ...]) -> None:
    notes.with_name("empty").mkdir()
    shell("rank", "query", "text", "--model", name).check_refused(2, *said)


def test_an_index_of_another_tokenizer_is_refused_with_both_names_and_the_way_out(
    shell: Shell, notes_index: Path, tiny: Tiny, stored: Stored
) -> None:
    before, settings = stored(notes_index), Index.open(notes_index).settings
    said = (
        "the index at notes.index stores token ids of",
        f"'{tiny('bert')}'",
        f"'{tiny('ettin')}' has another tokenizer",
        "runoff index notes.index --retokenize --model",
    )
    for command in (COMMANDS["search"], COMMANDS["index"]):
        shell(*command, "--model", tiny("ettin")).check_refused(2, *said)
    assert stored(notes_index) == before
    assert Index.open(notes_index).settings == settings
    # The way out that the message names.
    assert shell("index", "notes.index", "--retokenize", "--model", tiny("ettin")).code == 0
    assert shell(*COMMANDS["search"], "--model", tiny("ettin")).code == 0


def test_scores_that_are_no_numbers_are_an_error_and_never_an_order(
    shell: Shell, notes_index: Path, tiny_copy: Tiny
) -> None:
    from safetensors.numpy import load_file, save_file

    weights = tiny_copy("bert") / "model.safetensors"
    tensors = load_file(weights)
    save_file(tensors | {"classifier.weight": np.full_like(tensors["classifier.weight"], np.nan)}, weights)
    for name in ("rank", "score", "search"):
        answer = shell(*COMMANDS[name], "--model", weights.parent)
        answer.check_refused(1, "scores are not finite", "load it again from its source")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--precision", "int4"), ("invalid choice: 'int4'", "fp32")),
        (("--max-length", "0"), ("1 or more, got '0'",)),
        (("--max-length", "3"), ("max_length must be more than the 3 special tokens", "got 3")),
        (("--max-length", "999"), ("max_length 999 is beyond this model's 512 positions",)),
    ],
)
def test_options_that_a_model_cannot_take_are_refused(
    shell: Shell, tiny: Tiny, options: tuple[str, ...], said: tuple[str, ...]
) -> None:
    shell("rank", "query", "text", "--model", tiny("bert"), *options).check_refused(2, *said)


def test_a_device_that_is_not_here_is_refused_with_what_is(shell: Shell, tiny: Tiny) -> None:
    answer = shell("rank", "query", "text", "--model", tiny("bert"), "--device", "gpu")
    answer.check_refused(2, "expected a device that torch", "got 'gpu'", "Choose 'cpu'")


def test_a_missing_extra_is_named_with_how_to_install_it(
    shell: Shell, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runoff.engine.choose.is_installed", lambda package: False)
    answer = shell("rank", "query", "text", "--model", tiny("deberta"))
    answer.check_refused(2, "deberta", "pip install 'runoff[torch]'")


def test_a_model_that_sentence_transformers_runs_stores_no_tokens_and_reads_texts(
    shell: Shell, notes: Path, tiny: Tiny
) -> None:
    answer = shell("index", "new.index", "--from", notes, "--model", tiny("deberta"), "--json")
    assert answer.json["index"]["tokenizer"] is None
    assert "takes texts only: no token ids are stored" in answer.err
    found = shell("search", "boiler", "--index", "new.index", "--model", tiny("deberta"), "--json")
    assert {hit["id"] for hit in found.json["hits"]} == {"boiler", "water"}
    shutil.rmtree(notes.with_name("new.index"))
