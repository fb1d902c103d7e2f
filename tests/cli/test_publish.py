"""`runoff publish`: files that both programs load, a card whose figures are the files', and nothing half done."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import sentence_transformers
from huggingface_hub import errors
from safetensors import safe_open
from torch import nn

from runoff import CrossEncoder
from runoff.checkpoint.modular import weight_digests
from runoff.engine.native import native_module
from runoff.selfcheck import check_pairs
from standin_calibration import write_calibration
from standin_judged import judged_folder
from standin_run import RUN, build_rows, build_run

Shell = Callable[..., Any]
needs_native = pytest.mark.skipif(native_module() is None, reason="needs the native engine")


@pytest.fixture(scope="session")
def built_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {kind: build_run(folder / kind, kind) for kind in ("bert", "modernbert")}


@pytest.fixture
def run_of(built_runs: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a run in this test's folder, with changes to its run.json."""

    def copied(kind: str = "bert", **changes: Any) -> Path:
        run = Path(shutil.copytree(built_runs[kind], tmp_path / "run"))
        (run / "run.json").write_text(json.dumps({**RUN, **changes}))
        return run

    return copied


def theirs(folder: str | Path) -> Any:
    return sentence_transformers.CrossEncoder(str(folder), device="cpu", activation_fn=nn.Identity())


def raw(folder: str | Path) -> np.ndarray:
    return np.asarray(theirs(folder).predict(check_pairs(), show_progress_bar=False))


def stored_types(folder: Path) -> set[str]:
    types = set()
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            types |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - no mapping
    return types


# --- the files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_both_programs_load_it_and_give_the_runs_scores(
    shell: Shell, run_of: Callable[..., Path], kind: str, precision: str
) -> None:
    run = run_of(kind)
    facts = shell("publish", run, "out", "--precision", precision, "--json").json
    wanted, found = raw(run / "model"), raw("out")
    assert wanted.std() > 0.5
    assert facts["verified"]["pairs"] == len(check_pairs()) + 1
    largest = float(np.abs(found - wanted).max())
    if precision == "fp32":
        assert facts["verified"]["from_run"] == largest == 0.0
    else:
        assert 0 < largest <= facts["verified"]["from_run"] + 1e-6
        assert facts["verified"]["noise"] < 0.05
    digests = weight_digests(run / "model")
    assert (facts["weights_sha256"] == digests) == (precision == "fp32")
    ours = CrossEncoder("out", precision="fp32").predict(check_pairs(), activation_fn="identity")
    np.testing.assert_allclose(ours, found, rtol=0, atol=1e-4)
    floats = stored_types(Path("out")) & {"F32", "BF16", "F16"}
    assert floats == {"BF16" if precision == "bf16" else "F32"}
    assert json.loads(Path("out/config.json").read_text())["dtype"] == "float32"
    assert {p.dtype for p in theirs("out").parameters()} == {theirs(run / "model").dtype}


def test_bf16_weights_are_those_of_torch(shell: Shell, run_of: Callable[..., Path]) -> None:
    from safetensors.torch import load_file

    run = run_of()
    assert shell("publish", run, "out").code == 0
    for path in (run / "model").rglob("*.safetensors"):
        wanted = {
            name: value.bfloat16() for name, value in load_file(path).items() if value.is_floating_point()
        }
        found = load_file(Path("out") / path.relative_to(run / "model"))
        for name, value in wanted.items():
            assert found[name].equal(value), name


def test_a_tokenizer_keeps_nothing_of_the_machine_or_the_call(
    shell: Shell, run_of: Callable[..., Path]
) -> None:
    run = run_of()
    for name, changes in (
        ("tokenizer.json", {"truncation": {"max_length": 128, "strategy": "LongestFirst", "stride": 0}}),
        (
            "tokenizer_config.json",
            {"max_length": 128, "stride": 0, "name_or_path": str(run), "is_local": True},
        ),
        ("config.json", {"_name_or_path": str(run)}),
    ):
        path = run / "model" / name
        content = {**json.loads(path.read_text()), **changes}
        if name == "tokenizer.json":
            content["truncation"]["direction"] = "Right"
        path.write_text(json.dumps(content))
    assert shell("publish", run, "out").code == 0
    tokenizer = json.loads(Path("out/tokenizer.json").read_text())
    assert (tokenizer["padding"], tokenizer["truncation"]) == (None, None)
    kept = json.loads(Path("out/tokenizer_config.json").read_text())
    assert kept["model_max_length"] == 512
    assert not {"max_length", "stride", "name_or_path", "is_local"} & kept.keys()
    for path in Path("out").rglob("*"):
        assert not path.is_file() or str(Path.cwd()).encode() not in path.read_bytes(), path


# --- the card --------------------------------------------------------------------------------------------


def test_the_cards_figures_are_those_of_the_files(
    shell: Shell, run_of: Callable[..., Path], tmp_path: Path
) -> None:
    run, rows = run_of(), build_rows(tmp_path / "rows")
    judged = judged_folder(tmp_path / "house")
    words = ("judge", judged, "--model", run / "model", "--precision", "fp32", "--figures", "results.jsonl")
    assert shell(*words).code == 0
    options = ("--rows", rows, "--judged", "results.jsonl", "--licence", "apache-2.0", "--language", "en")
    facts = shell("publish", run, "my-reranker", *options, "--json").json
    assert facts["judged_sets"] == ["house"]
    card = Path("my-reranker/README.md").read_text()
    front = card.split("---\n")[1].splitlines()
    assert front == [
        *("license: apache-2.0", "language: en", "library_name: sentence-transformers"),
        *("pipeline_tag: text-ranking", "base_model: some-org/tiny-encoder", "datasets:", "- some-org/faq"),
        *("tags:", "- sentence-transformers", "- cross-encoder", "- reranker", "- runoff"),
    ]
    said = ["# my-reranker", "1.2M parameters", "pairs of up to 512 tokens", "| learning rate | 0.000234 |"]
    said += [
        "| loss | mse 1, listwise 0.5 |",
        "| steps | 190 |",
        "| pairs | 12,160 |",
        "72 min (2.8 pairs a second)",
    ]
    said += [
        "Abacus 9000",
        "torch 2.13.0",
        "`held_out_ndcg@10` was best at step 120 with 0.7333, and 0.7222 at the",
    ]
    said += ["the best one is published", "| 60 | 0.6111 | 1.5000 |", "(curves.svg)", "rows 12,345"]
    said += ["| manuals | build/m | 12,000 | 0 | cc-by-4.0 |", "| faq | some-org/faq | 345 | 55 | mit |"]
    said += [
        "runoff judge house --reranker run/model --depth 100 --precision fp32",
        "activation: compare them",
    ]
    said += ["runoff publish run my-reranker --precision bf16 --licence apache-2.0 --language en --rows rows"]
    said += [f"the largest difference is {facts['verified']['from_run']:.3g}", "before they were rounded"]
    said += [f"| `{name}` | `{digest}` |" for name, digest in facts["weights_sha256"].items()]
    for each in said:
        assert each in card, each
    lines = [json.loads(line) for line in Path("results.jsonl").read_text().splitlines()]
    cells = [f"{lines[0]['ndcg_at_10']:.4f}"]
    cells += [
        f"{line['ndcg_at_10']:.4f} [{line['minus_first_95'][0]:+.3f}, {line['minus_first_95'][1]:+.3f}]"
        for line in lines[1:]
    ]
    assert "| set | queries | BM25 | my-reranker | BM25 + my-reranker |\n|---|---:|---:|---:|---:|\n" in card
    assert f"| house | 3 | {' | '.join(cells)} |" in card
    assert "carbon" not in card.lower()
    assert Path("my-reranker/curves.svg").is_file()
    (weights,) = (facts["weights_sha256"][name] for name in ("model.safetensors",))
    assert weights == hashlib.sha256(Path("my-reranker/model.safetensors").read_bytes()).hexdigest()


def test_a_calibration_goes_along_and_is_told_of(shell: Shell, run_of: Callable[..., Path]) -> None:
    run = run_of()
    calibration = write_calibration(run / "model")
    assert shell("publish", run, "out").code == 0
    assert CrossEncoder("out").calibration == calibration
    card = Path("out/README.md").read_text()
    for said in (
        "## Probabilities\n",
        "`calibration.json` turns raw scores into probabilities of relevance (platt)",
        "Fitted on house: 400 pairs of 10 queries, 40 of them\nrelevant (a grade above 0).",
        "0.0200 on queries held out (0.4000\nfor a sigmoid of the raw score), the Brier score 0.0500 (0.3000)",
    ):
        assert said in card, said


def test_a_reranker_that_was_gone_on_with_is_named_beside_the_encoder(
    shell: Shell, run_of: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "first").mkdir()
    run = run_of(backbone={"name": str(tmp_path / "first"), "sha256": "ab" * 32})
    assert shell("publish", run, "out", "--base-model", "some-org/tiny-encoder").code == 0
    card = Path("out/README.md").read_text()
    assert "| backbone | some-org/tiny-encoder |" in card
    assert "| start | `first`, weights' SHA-256 abababababababab... |" in card
    assert str(tmp_path) not in card


def test_what_is_not_known_is_not_said(shell: Shell, run_of: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    changes = {"best": None, "last": None, "metric": None, "evaluations": [], "chosen": "last"}
    rows = {
        "folder": "rows",
        "identity": {"scores": [{"folder": "s", "weight": 1.0, "teacher": "big"}]},
        "counts": {},
    }
    run = run_of(**changes, rows=rows, backbone={"name": str(tmp_path / "encoder"), "sha256": "0"})
    (run / "curves.svg").unlink()
    answer = shell("publish", run, "out")
    assert (answer.code, answer.err) == (0, "")
    assert "not stated (see --licence)" in answer.out
    card = Path("out/README.md").read_text()
    for absent in (
        "license",
        "language",
        "base_model",
        "datasets",
        "curves.svg",
        "How good",
        "int8",
        str(tmp_path),
    ):
        assert absent not in card, absent
    assert "Nothing was evaluated on the way" in card
    assert "- Labels from `s`: weight 1, teacher big" in card
    assert "Trained from\n`encoder` with Runoff 0.1.0." in card


def test_the_cards_example_runs(
    shell: Shell, run_of: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert shell("publish", run_of(), "out").code == 0
    (code,) = re.findall(r"```python\n(.*?)```", Path("out/README.md").read_text(), re.DOTALL)
    for program in (code, code.replace("from runoff import", "from sentence_transformers import")):
        exec(program, {})
        assert capsys.readouterr().out.count("\n") == 2


def test_figures_of_other_weights_are_refused(
    shell: Shell, run_of: Callable[..., Path], built_runs: dict[str, Path], tmp_path: Path
) -> None:
    judged = judged_folder(tmp_path / "house")
    other = built_runs["modernbert"] / "model"
    assert shell("judge", judged, "--model", other, "--figures", "other.jsonl").code == 0
    run = run_of()
    refused = shell("publish", run, "out", "--judged", "other.jsonl")
    refused.check_refused(
        2, "other.jsonl has no line about the weights", "runoff judge SET --model RUN/model"
    )
    Path("bad.jsonl").write_text('{"collection": "x"}\n')
    shell("publish", run, "out", "--judged", "bad.jsonl").check_refused(2, "bad.jsonl:1", "it lacks system")
    # Beside the model's own lines those of others are shown under their names.
    both = ("judge", judged, "--model", run / "model", "--model", other, "--figures", "both.jsonl")
    assert shell(*both).code == 0
    assert shell("publish", run, "out", "--judged", "both.jsonl").code == 0
    card = Path("out/README.md").read_text()
    assert "| BM25 | out | BM25 + out | modernbert/model | BM25 + modernbert/model |" in card
    assert "Spearman's correlation of its scores with those of `modernbert/model`" in card


def test_rows_of_another_run_are_refused(shell: Shell, run_of: Callable[..., Path], tmp_path: Path) -> None:
    other = build_rows(tmp_path / "other", identity={"mixture": {"name": "another"}})
    shell("publish", run_of(), "out", "--rows", other).check_refused(2, "are not the rows", "made otherwise")
    assert not Path("out").exists()


# --- int8 ------------------------------------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_the_int8_companion_loads_and_its_error_is_in_the_card(
    shell: Shell, run_of: Callable[..., Path], kind: str
) -> None:
    facts = shell("publish", run_of(kind), "out", "--int8", "--json").json
    measured = facts["int8"]["measured"]
    model = CrossEncoder("out-int8")
    assert (model.choice.engine, model.choice.precision) == ("native", "int8")
    scores = np.asarray(model.predict(check_pairs(), activation_fn="identity"))
    exact = np.asarray(CrossEncoder("out", precision="fp32").predict(check_pairs(), activation_fn="identity"))
    assert np.abs(scores - exact).max() == pytest.approx(measured["largest_difference"], rel=1e-3)
    card = re.sub(r"\s+", " ", Path("out/README.md").read_text())
    assert f"noise {measured['noise']:.4f}" in card
    assert f"Spearman's rank correlation {measured['spearman']:.5f}" in card
    assert "runoff publish run out --precision bf16 --int8\n" in Path("out/README.md").read_text()
    own = Path("out-int8/README.md").read_text()
    assert "\n# out-int8\n" in own
    assert "runoff quantize out out-int8 --precision int8" in own
    assert sorted(path.name for path in Path().iterdir()) == ["out", "out-int8", "run"]


@needs_native
def test_an_int8_of_other_weights_is_named(shell: Shell, run_of: Callable[..., Path]) -> None:
    run = run_of()
    assert shell("publish", run, "out", "--int8").code == 0
    assert shell("publish", run, "out", "--int8", "--force").code == 0
    assert "other weights" not in shell("publish", run, "out", "--force").err
    assert (
        "out-int8 is of other weights" in shell("publish", run, "out", "--force", "--precision", "fp32").err
    )


# --- whole or not at all -----------------------------------------------------------------------------------


def test_an_unfinished_or_broken_run_is_refused(shell: Shell, run_of: Callable[..., Path]) -> None:
    run = run_of(complete=False)
    shell("publish", run, "out").check_refused(2, "run is not finished", "`runoff train`")
    (run / "run.json").write_text(json.dumps({**RUN, "steps": None}))
    shell("publish", run, "out").check_refused(2, "run.json: expected 'steps' of the run, got None")
    (run / "run.json").write_text(json.dumps({**RUN, "kind": "labels"}))
    shell("publish", run, "out").check_refused(2, "not the manifest of a training run")
    (run / "run.json").write_text("{")
    shell("publish", run, "out").check_refused(2, "run.json cannot be read")
    (run / "run.json").write_text(json.dumps(RUN))
    (run / "model" / "config.json").unlink()
    shell("publish", run, "out").check_refused(2, "model holds no model")
    shell("publish", "nowhere", "out").check_refused(2, "expected a training run at nowhere")
    assert sorted(path.name for path in Path().iterdir()) == ["run"]


def test_places_that_are_taken_are_refused(shell: Shell, run_of: Callable[..., Path]) -> None:
    run = run_of()
    shell("publish", run, run / "out").check_refused(2, "lie in one another")
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("x")
    for options in ([], ["--force"]):
        shell("publish", run, "mine", *options).check_refused(2, "mine holds what Runoff did not publish")
    assert shell("publish", run, "out").code == 0
    shell("publish", run, "out").check_refused(2, "out was published before", "--force")
    assert shell("publish", run, "out", "--force", "--precision", "fp32").code == 0
    assert "F32" in stored_types(Path("out"))


@pytest.mark.parametrize("place", ["write_model", "verify", "model_card"])
@pytest.mark.parametrize(
    "fault", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"]
)
def test_nothing_is_left_of_what_fails(
    shell: Shell,
    run_of: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    fault: BaseException,
) -> None:
    from runoff.publish import release

    def fails(*_: object, **__: object) -> None:
        raise fault

    run = run_of()
    with monkeypatch.context() as patched:
        patched.setattr(release, place, fails)
        assert shell("publish", run, "out").code in (1, 130)
    assert sorted(path.name for path in Path().iterdir()) == ["run"]
    assert shell("publish", run, "out").code == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir() if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr(release, place, fails)
        assert shell("publish", run, "out", "--force", "--precision", "fp32").code in (1, 130)
    assert {path.name: path.read_bytes() for path in Path("out").iterdir() if path.is_file()} == before


def test_a_kill_leaves_no_folder_of_that_name(shell: Shell, run_of: Callable[..., Path]) -> None:
    run = run_of()
    code = (
        "import os, signal, sys; from runoff.cli import main; from runoff.publish import release;"
        "release._sync = lambda _: os.kill(os.getpid(), signal.SIGKILL);"  # all is written, nothing has its name
        f"sys.exit(main(['publish', {str(run)!r}, 'out']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    left = [path.name for path in Path().iterdir() if path.name != "run"]
    assert len(left) == 1
    assert left[0].startswith(".out."), "a draft, which no command takes for a model's folder"
    assert shell("publish", run, "out").code == 0


def test_files_that_give_other_scores_are_never_published(
    shell: Shell, run_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of()
    with monkeypatch.context() as patched:
        patched.setattr(
            "runoff.cli.publish._scores", lambda folder, pairs, _: np.zeros(len(pairs), np.float32)
        )
        shell("publish", run, "out").check_refused(2, "scores of the new files that differ by up to")
    from runoff.publish import export

    with monkeypatch.context() as patched:
        patched.setattr(export, "SAME_FILES", -1.0)
        refused = shell("publish", run, "out", "--precision", "fp32")
        refused.check_refused(2, "differ from the run's by up to", "nothing was published")
    assert not Path("out").exists()


def test_weights_that_are_not_finite_or_not_fp32_are_refused(
    shell: Shell, run_of: Callable[..., Path]
) -> None:
    import torch

    import standins

    run = run_of()
    head = run / "model" / "4_Dense" / "model.safetensors"
    whole = head.read_bytes()
    standins.change_tensors(head, lambda tensors: tensors["linear.bias"].fill_(torch.nan))
    shell("publish", run, "out").check_refused(2, "linear.bias", "not finite", "diverged")
    head.write_bytes(whole)
    standins.change_tensors(
        head, lambda tensors: tensors.update({"linear.bias": tensors["linear.bias"].bfloat16()})
    )
    shell("publish", run, "out").check_refused(2, "expected fp32 weights", "BF16")
    head.write_bytes(whole)
    standins.change_tensors(head, lambda tensors: tensors["linear.weight"].zero_())
    shell("publish", run, "out").check_refused(2, "about the same score", "cannot rank")
    assert not Path("out").exists()


# --- the hub -----------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was asked of the hub, which takes everything unless `hub.error` is set."""

    class Asked(list):
        error: Exception | None = None

    calls = Asked()

    class Api:
        def __init__(self, token: str | None = None) -> None:
            pass

        def create_repo(self, repo_id: str, **options: Any) -> str:
            if calls.error is not None:
                raise calls.error
            calls.append({"create": repo_id, **options})
            return f"https://hub.test/{repo_id}"

        def upload_folder(self, **options: Any) -> None:
            files = sorted(path.name for path in Path(options["folder_path"]).iterdir())
            calls.append({"upload": options["repo_id"], "files": files})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a-token")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return calls


@needs_native
def test_a_push_uploads_the_folder_and_its_companion(
    shell: Shell, run_of: Callable[..., Path], hub: list[dict[str, Any]]
) -> None:
    words = ("publish", run_of(), "out", "--int8", "--push", "some-org/fine-name", "--private", "--json")
    facts = shell(*words).json
    assert facts["pushed"] == [
        "https://hub.test/some-org/fine-name",
        "https://hub.test/some-org/fine-name-int8",
    ]
    assert [call.get("create") or call.get("upload") for call in hub] == [
        *["some-org/fine-name"] * 2,
        *["some-org/fine-name-int8"] * 2,
    ]
    assert (hub[0]["private"], hub[0]["exist_ok"], hub[0]["repo_type"]) == (True, True, "model")
    assert {"README.md", "config.json", "model.safetensors", "modules.json"} <= set(hub[1]["files"])
    card = Path("out/README.md").read_text()
    assert 'CrossEncoder("some-org/fine-name")' in card
    assert "# fine-name\n" in card


def test_what_the_hub_refuses_is_told(
    shell: Shell, run_of: Callable[..., Path], hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of()
    for name in ("no-organisation", "a/b/c", "/a", "a b/c"):
        shell("publish", run, "out", "--push", name).check_refused(2, "expected ORG/NAME")
    shell("publish", run, "out", "--private").check_refused(2, "--private", "--push")
    with monkeypatch.context() as patched:
        patched.setattr(huggingface_hub, "get_token", lambda: None)
        shell("publish", run, "out", "--push", "a/b").check_refused(1, "without a token", "hf auth login")
    with monkeypatch.context() as patched:
        patched.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        shell("publish", run, "out", "--push", "a/b").check_refused(1, "offline mode is on")
    assert not Path("out").exists(), "refused before the work"
    hub.error = ConnectionError("no route")
    shell("publish", run, "out", "--push", "a/b").check_refused(1, "cannot reach the hub", "--force")
    assert len(raw("out")) == len(check_pairs()), "the folder is whole all the same"

    class Response:
        status_code, headers, request = 403, {}, None

    refusal = errors.HfHubHTTPError.__new__(errors.HfHubHTTPError)
    refusal.response = Response()
    hub.error = refusal
    shell("publish", run, "out", "--force", "--push", "a/b").check_refused(1, "refuses to write a/b (403)")
    assert not [call for call in hub if "upload" in call]
