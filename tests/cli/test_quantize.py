"""`runoff quantize`: a checkpoint that loads, scores as was measured, and replaces nothing it should not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from runoff import CrossEncoder, Embedder
from runoff.checkpoint.quantized import PACKED_WEIGHTS, QUANTIZATION
from runoff.contracts import CheckpointError, InputError
from runoff.engine import choose
from runoff.engine.native import native_module
from runoff.selfcheck import check_pairs

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]

pytestmark = pytest.mark.skipif(native_module() is None, reason="needs the native engine")

PAIRS = [(f"what is {word}", f"A text about {word} and more.") for word in ("red", "hot", "big", "old")]


@pytest.mark.parametrize(
    "name", ["bert", "roberta", "xlm-roberta", "ettin", "ettin-3-labels", "modernbert-mean"]
)
@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_the_checkpoint_scores_like_its_model(shell: Shell, tiny: Tiny, name: str, precision: str) -> None:
    facts = shell("quantize", tiny(name), "out", "--precision", precision, "--json").json
    measured = facts["measured"]
    assert measured["noise"] <= measured["target"] == 0.02
    assert facts["bytes_after"] < facts["bytes_before"]
    assert facts["bytes_after"] == Path("out", PACKED_WEIGHTS).stat().st_size
    model, exact = CrossEncoder("out"), CrossEncoder(tiny(name), precision="fp32")
    assert (model.choice.engine, model.choice.precision) == ("native", precision)
    raw = [each.predict(check_pairs(), activation_fn="identity") for each in (model, exact)]
    assert measured["largest_difference"] == pytest.approx(np.abs(raw[0] - raw[1]).max(), rel=1e-3)
    found, wanted = (scores - scores.mean(axis=0) for scores in raw)
    assert measured["noise"] == pytest.approx(np.std(found - wanted) / np.std(wanted), rel=1e-3)
    ranks = stats.spearmanr(found.ravel(), wanted.ravel())
    assert measured["spearman"] == pytest.approx(ranks.statistic, abs=1e-6)


def test_every_command_takes_it(shell: Shell, tiny: Tiny, notes: Path) -> None:
    assert shell("quantize", tiny("bert"), "small").code == 0
    facts = shell("info", "--model", "small", "--json").json["model"]
    assert (facts["precision"], facts["kind"]) == ("int8", "reranker")
    assert "as the checkpoint was quantized" in facts["reason"]
    assert facts["parameters"] == shell("info", "--model", tiny("bert"), "--json").json["model"]["parameters"]
    assert facts["quantized"].startswith("from bert, noise ")
    assert len(shell("score", "q", "a", "b", "--model", "small", "--json").json_lines) == 2
    assert shell("rank", "q", "a", "b", "--model", "small").code == 0
    assert shell("index", "notes.index", "--from", notes, "--model", "small").code == 0
    assert shell("search", "boiler", "--index", "notes.index", "--model", "small").code == 0


def test_an_embedder_is_quantized_as_one(shell: Shell, tiny: Tiny) -> None:
    facts = shell("quantize", tiny("modernbert-embedder"), "out", "--json").json
    assert facts["role"] == "embedder"
    texts = [text for pair in PAIRS for text in pair]
    wanted, found = (Embedder(name).encode(texts) for name in (tiny("modernbert-embedder"), "out"))
    assert (np.sum(wanted * found, axis=1) > 0.99).all()
    assert "from runoff import Embedder" in Path("out/README.md").read_text()
    assert shell("quantize", tiny("bert"), "other").code == 0
    with pytest.raises(CheckpointError, match=r"quantized as 'reranker'.*runoff\.CrossEncoder"):
        Embedder("other")


def test_only_its_own_precision_on_a_cpu_is_run(shell: Shell, tiny: Tiny) -> None:
    assert shell("quantize", tiny("bert"), "out").code == 0
    for options in ({"precision": "fp32"}, {"precision": "bf16"}, {"device": "cuda"}, {"backend": "onnx"}):
        with pytest.raises(InputError, match="written by runoff quantize for int8"):
            CrossEncoder("out", **options)


def test_the_folder_holds_small_files_and_no_other_weights(shell: Shell, tiny_copy: Tiny) -> None:
    source = tiny_copy("ettin")
    (source / "onnx").mkdir()
    for name in ("pytorch_model.bin", "training_args.bin", "onnx/config.json", ".hidden.json", "LICENSE.md"):
        (source / name).write_text("{}")
    (source / "README.md").write_text("---\nlicense: mit\ntags: [a]\n---\n# x\n")
    assert shell("quantize", source, "out").code == 0
    held = {path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file()}
    wanted = {path.relative_to(source).as_posix() for path in source.rglob("*.json")} - {"onnx/config.json"}
    assert wanted - {".hidden.json"} | {PACKED_WEIGHTS, QUANTIZATION, "README.md", "LICENSE.md"} == held
    card = Path("out/README.md").read_text()
    assert card.startswith("---\nlicense: mit\nlibrary_name: runoff\ntags: [a]\n---\n# out\n")
    facts = json.loads(Path("out", QUANTIZATION).read_text())
    assert f"{facts['measured']['noise']:.4f}" in card
    assert str(Path.cwd()) not in card + json.dumps(facts)
    assert set(facts["source"]["sha256"]) == {
        path.relative_to(source).as_posix() for path in source.rglob("*.safetensors")
    }


def test_calibration_pairs_are_measured_on_too(shell: Shell, tiny: Tiny) -> None:
    lines = [json.dumps({"query": f"query {row}", "text": f"document {row} of many"}) for row in range(300)]
    Path("pairs.jsonl").write_text("\n".join(lines))
    facts = shell("quantize", tiny("bert"), "out", "--calibration", "pairs.jsonl", "--json").json
    assert facts["measured"]["on"] == "24 pairs that come with Runoff and 256 of pairs.jsonl"
    assert facts["measured"]["sequences"] == 280
    assert "--calibration pairs.jsonl" in Path("out/README.md").read_text()


def test_for_a_person_the_figures_are_those_of_json(shell: Shell, tiny: Tiny) -> None:
    answer = shell("quantize", tiny("bert"), "out")
    assert (answer.code, answer.err) == (0, "")
    facts = shell("quantize", tiny("bert"), "out", "--force", "--json").json
    measured = facts["measured"]
    assert re.search(rf"noise +{measured['noise']:.4f} \(at most 0.02 was asked for\)", answer.out)
    assert f"{measured['spearman']:.5f} against fp32" in answer.out
    for name in facts["kept_in_16_bits"]:
        assert name in answer.out


def test_a_folder_is_replaced_only_with_force_and_only_if_quantize_wrote_it(shell: Shell, tiny: Tiny) -> None:
    assert shell("quantize", tiny("bert"), "out").code == 0
    before = Path("out", PACKED_WEIGHTS).read_bytes()
    shell("quantize", tiny("bert"), "out").check_refused(2, "out holds a quantized checkpoint", "--force")
    assert Path("out", PACKED_WEIGHTS).read_bytes() == before
    assert shell("quantize", tiny("bert"), "out", "--force", "--precision", "bf16").code == 0
    assert CrossEncoder("out").choice.precision == "bf16"
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("x")
    for options in ([], ["--force"]):
        refused = shell("quantize", tiny("bert"), "mine", *options)
        refused.check_refused(2, "mine holds files that runoff quantize did not write", "Choose a new folder")
    Path("file").write_text("x")
    shell("quantize", tiny("bert"), "file").check_refused(2, "is a file", "another name")
    Path("empty").mkdir()
    assert shell("quantize", tiny("bert"), "empty").code == 0
    assert sorted(path.name for path in Path().iterdir()) == ["empty", "file", "mine", "out"]


def test_what_cannot_be_quantized_is_refused(
    shell: Shell, tiny: Tiny, tiny_copy: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell("quantize", tiny("static"), "out").check_refused(2, "static table", "no matrix products")
    shell("quantize", tiny("deberta"), "out").check_refused(
        2, "only models that Runoff's own engine runs", "deberta"
    )
    assert shell("quantize", tiny("bert"), "done").code == 0
    shell("quantize", "done", "out").check_refused(
        2, "quantized already (int8)", "the model that it was made from"
    )
    source = tiny_copy("bert")
    shell("quantize", source, source / "out").check_refused(2, "lie in one another", "beside it")
    shell("quantize", tiny("bert"), "out", "--target", "1e-9").check_refused(
        2, "out of reach", "larger target"
    )
    refused = shell("quantize", tiny("bert"), "out", "--target", "0", "--precision", "bf16")
    refused.check_refused(2, "more than the target 0", "larger target")
    monkeypatch.setattr(choose, "native_module", lambda: None)
    shell("quantize", tiny("bert"), "out").check_refused(2, "needs the native engine", "was not built")
    assert not Path("out").exists()


def test_nothing_is_left_of_a_failed_write(shell: Shell, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from runoff import quantize

    assert shell("quantize", tiny("bert"), "out").code == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "out")

    monkeypatch.setattr(quantize, "write_quantized", full)
    answer = shell("quantize", tiny("bert"), "out", "--force", "--precision", "bf16")
    answer.check_refused(1, "No space left", "disk is full")
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    assert [path.name for path in Path().iterdir()] == ["out"]
