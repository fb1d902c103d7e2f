"""`runoff info`: this machine, a model, an index, as they are."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import runoff
from runoff.cli import machine
from runoff.cli.machine import EXTRAS, gpus, processor

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]


def test_the_machine_is_described(shell: Shell, tiny: Tiny) -> None:
    facts = shell("info", "--model", tiny("bert"), "--json").json["machine"]
    assert (facts["runoff"], facts["python"]) == (runoff.__version__, platform.python_version())
    assert facts["system"] == f"{platform.system()} {platform.machine()}"
    assert 1 <= facts["cores"] <= (os.cpu_count() or 1)
    assert set(facts["extras"]) == set(EXTRAS)


def test_a_model_is_described_and_what_would_run_it(shell: Shell, tiny: Tiny) -> None:
    folder = tiny("bert")
    facts = shell("info", "--model", folder, "--json").json["model"]
    shape = {"family": "bert", "layers": 3, "hidden": 32, "heads": 2, "outputs": 1, "max_length": 512}
    assert {name: facts[name] for name in shape} == shape
    assert (facts["kind"], facts["engine"], facts["device"], facts["precision"]) == (
        "reranker",
        "native",
        "cpu",
        "fp32",
    )
    assert facts["vocabulary"] == 30522
    assert facts["parameters"] == sum(each.size for each in load_file(folder / "model.safetensors").values())
    out = shell("info", "--model", folder).out
    assert re.search(r"^  layers +3$", out, re.MULTILINE)
    assert re.search(rf"^  parameters +{facts['parameters']:,}$", out, re.MULTILINE)
    assert re.search(r"^  head +.* -> ", out, re.MULTILINE)


@pytest.mark.parametrize(("name", "family"), [("static", "static table"), ("bert-embedder", "bert")])
def test_an_embedder_is_told_from_a_reranker(shell: Shell, tiny: Tiny, name: str, family: str) -> None:
    facts = shell("info", "--model", tiny(name), "--json").json["model"]
    assert (facts["kind"], facts["family"]) == ("embedder", family)


def test_a_model_that_sentence_transformers_would_run_says_why(shell: Shell, tiny: Tiny) -> None:
    facts = shell("info", "--model", tiny("deberta"), "--json").json["model"]
    assert facts["engine"] == "sentence-transformers"
    assert "deberta" in facts["reason"]
    assert "parameters" not in facts


def test_a_model_that_nothing_here_runs_says_what_would(
    shell: Shell, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runoff.engine.choose.is_installed", lambda package: False)
    facts = shell("info", "--model", tiny("deberta"), "--json").json["model"]
    assert facts["engine"] == "none"
    assert "pip install 'runoff[torch]'" in facts["reason"]


def test_an_index_is_described(shell: Shell, tiny: Tiny, notes_index: Path) -> None:
    command = ("info", "--index", "notes.index", "--model", tiny("bert"))
    facts = shell(*command, "--json").json["index"]
    assert (facts["documents"], facts["unindexed"], facts["state"]) == (5, 0, "complete")
    assert (facts["tokenizer"], facts["embedder"]) == (str(tiny("bert")), str(tiny("static")))
    assert facts["language"] == "english"
    assert facts["bytes_on_disk"] == sum(
        each.stat().st_size for each in notes_index.rglob("*") if each.is_file()
    )
    out = shell(*command).out
    assert re.search(r"^  documents +5$", out, re.MULTILINE)
    assert re.search(r"^  columns +id \(string\), .*year \(int64\)", out, re.MULTILINE)


def test_an_index_that_is_not_there_is_an_error(shell: Shell, tiny: Tiny) -> None:
    answer = shell("info", "--index", "no.index", "--model", tiny("bert"))
    answer.check_refused(2, "expected a Runoff index at no.index", "found nothing")


def test_missing_extras_are_listed_with_how_to_install_them(
    shell: Shell, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"rich": "15.0", "pylance": None, "torch": None}
    monkeypatch.setattr("runoff.cli.info.installed_version", lambda name: versions.get(name, "1.0"))
    monkeypatch.setattr("runoff.cli.info.gpus", lambda: ["NVIDIA H100"])
    out = shell("info", "--model", tiny("bert")).out
    assert re.search(r"^  torch +not installed$", out, re.MULTILINE)
    assert re.search(r"^  extras +cli, files, nano, train, eval$", out, re.MULTILINE)
    assert re.findall(r"^  missing +(\w+): .*pip install 'runoff\[(\w+)\]'$", out, re.MULTILINE) == [
        ("search", "search"),
        ("torch", "torch"),
    ]
    assert re.search(r"^  GPUs +NVIDIA H100 \(unused: they need the torch extra\)$", out, re.MULTILINE)


def test_the_default_model_that_is_not_installed_is_a_fact_and_no_error(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runoff.checkpoint.hub.BUNDLED", {"runoff-nano": "no_such_package"})
    facts = shell("info", "--json").json["model"]
    assert (facts["name"], facts["engine"]) == ("runoff-nano", "none")
    assert "pip install 'runoff[nano]'" in facts["reason"]
    assert shell("info", "--model", "runoff-nano").code == 2


# --- where it is read from -------------------------------------------------------------------------------


def test_processors_of_both_kinds_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "CPUINFO", file)
    file.write_text(
        "model name\t: Some CPU @ 2GHz\nflags\t\t: fpu avx2 fma sse avx512f\n\nmodel name\t: other\n"
    )
    assert processor().name == "Some CPU @ 2GHz"
    assert processor().flags == ("avx2", "fma", "avx512f")
    file.write_text("processor\t: 0\nFeatures\t: fp asimd i8mm\n")
    assert processor().flags == ("asimd", "i8mm")
    file.unlink()
    assert processor().flags == ()
    assert processor().cores >= 1


def test_gpus_are_read_from_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "GPUS", tmp_path / "gpus")
    assert gpus() == []
    for name, content in (("0001", "Model: \t\t NVIDIA L4\nIRQ: 1\n"), ("0002", "IRQ: 2\n")):
        (tmp_path / "gpus" / name).mkdir(parents=True)
        (tmp_path / "gpus" / name / "information").write_text(content)
    assert gpus() == ["NVIDIA L4", "unknown"]
