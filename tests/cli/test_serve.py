"""`runoff serve`: its flags, their environment variables, and what it refuses before it listens."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from runoff.cli import build_parser
from runoff.cli import serve as command
from runoff.serve.settings import ENVIRONMENT, Settings

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "serve.md"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in fields(Settings):
        monkeypatch.delenv(ENVIRONMENT + setting.name.upper(), raising=False)


def parsed(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(["serve", *words])


def settings(*words: str) -> Settings:
    return command._settings(parsed(*words))


def test_without_flags_the_settings_are_their_defaults() -> None:
    assert settings() == Settings()


def test_every_setting_has_a_flag_and_its_help(shell: Shell) -> None:
    text = shell("serve", "--help").out
    for setting in fields(Settings):
        assert re.search(rf"^  --{setting.name.replace('_', '-')}\b", text, re.MULTILINE)


def test_flags_set_settings() -> None:
    found = settings(
        "--port", "0", "--api-key", "a", "--api-key", "b", "--strict-model", "--keep-alive", "2.5"
    )
    assert found == Settings(port=0, api_key=("a", "b"), strict_model=True, keep_alive=2.5)


def test_a_variable_of_the_environment_is_a_flag_s_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("MAX_DOCUMENTS", "7"),
        ("STRICT_MODEL", "true"),
        ("API_KEY", "a,b"),
        ("DRAIN_TIMEOUT", "1.5"),
        ("SCORES", "raw"),
        ("MODEL", "mine"),
        ("PRECISION", "fp32"),
        ("MAX_LENGTH", "128"),
        ("HOST", ""),
    ):
        monkeypatch.setenv(ENVIRONMENT + name, value)
    found = settings()
    assert found == Settings(
        max_documents=7, strict_model=True, api_key=("a,b",), drain_timeout=1.5, scores="raw"
    )
    options = parsed()
    assert (options.model, options.precision, options.max_length) == ("mine", "fp32", 128)


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNOFF_SERVE_PORT", "1")
    monkeypatch.setenv("RUNOFF_SERVE_CORS_ORIGIN", "https://a.example")
    found = settings("--port", "2", "--cors-origin", "https://b.example")
    assert (found.port, found.cors_origin) == (2, ("https://b.example",))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "x", "RUNOFF_SERVE_PORT: expected a whole number of 0 or more, got 'x'"),
        ("REPLICAS", "0", "RUNOFF_SERVE_REPLICAS: expected a whole number of 1 or more, got '0'"),
        ("KEEP_ALIVE", "0", "RUNOFF_SERVE_KEEP_ALIVE: expected a number of seconds above 0"),
        ("STRICT_MODEL", "perhaps", "RUNOFF_SERVE_STRICT_MODEL: expected 1 or 0"),
        ("SCORES", "best", "RUNOFF_SERVE_SCORES: expected one of sigmoid, model, raw"),
        ("PRECISION", "int4", "RUNOFF_SERVE_PRECISION: expected one of auto"),
    ],
)
def test_a_variable_that_cannot_be_meant_is_refused_by_its_name(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(ENVIRONMENT + name, value)
    shell("serve").check_refused(2, said, "runoff serve --help")


def test_the_environment_of_serve_leaves_other_commands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNOFF_SERVE_PORT", "x")
    monkeypatch.setenv("RUNOFF_SERVE_MODEL", "mine")
    assert build_parser().parse_args(["rank", "q", "d"]).model == "runoff-nano"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "no/such-model"), "no/such-model"),
        (("--api-key-file", "none"), "--api-key-file none"),
        (("--host", "192.0.2.1"), "cannot listen at 192.0.2.1"),
        (("--index", "none.index"), "expected a Runoff index at none.index"),
    ],
)
def test_what_cannot_be_served_is_told_in_a_line(
    shell: Shell, tiny: Tiny, words: tuple[str, ...], said: str
) -> None:
    model = () if "--model" in words else ("--model", tiny("bert"))
    shell("serve", "--port", "0", *model, *words).check_refused(2, said)


def test_a_model_of_several_labels_is_refused(shell: Shell, tiny: Tiny) -> None:
    shell("serve", "--model", tiny("bert-3-labels")).check_refused(2, "gives 3 labels a pair")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--truncation", "document"), "cuts 'longest_first' only"),
        (("--long-documents", "passages"), "cuts 'longest_first' only"),
        (("--scores", "model"), "--scores sigmoid or raw"),
    ],
)
def test_what_sentence_transformers_cannot_do_is_refused(
    shell: Shell, tiny: Tiny, words: tuple[str, ...], said: str
) -> None:
    shell("serve", "--model", tiny("deberta"), *words).check_refused(2, said)


def test_without_the_extra_it_is_named(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    shell("serve").check_refused(2, "pip install 'runoff[serve]'")


def test_threads_are_divided_among_the_workers(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNOFF_THREADS", "6")
    options = parsed("--model", str(tiny("bert")), "--replicas", "3")
    model = command.load_model(options, command._settings(options))
    assert model.build.args[1].threads == 2  # type: ignore[attr-defined]


def test_the_page_lists_every_flag_with_its_variable_and_default() -> None:
    rows = dict(re.findall(r"^\| `--([a-z-]+)` \| (.*) \|$", PAGE.read_text("utf-8"), re.MULTILINE))
    assert set(rows) == {setting.name.replace("_", "-") for setting in fields(Settings)}
    for setting in fields(Settings):
        default = setting.default
        shown = (
            ""
            if default in ("", (), False)
            else f"{default:g}"
            if isinstance(default, float)
            else str(default)
        )
        assert rows[setting.name.replace("_", "-")].startswith(
            f"`{ENVIRONMENT}{setting.name.upper()}` | {shown} | "
        )
