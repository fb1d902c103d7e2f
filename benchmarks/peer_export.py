"""The forms of a checkpoint that other runtimes read, made once and kept beside it in build/bench.

`python benchmarks/peer_export.py KIND CHECKPOINT FOLDER` makes one of them, in an environment that has what
it needs (`NEEDS`). peer_process.py calls it.
"""

from __future__ import annotations

import csv
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

OPSET = 17
CALIBRATION_PAIRS = 64


def export_onnx(checkpoint: Path, folder: Path) -> None:
    """The whole reranker, head included, as sentence-transformers computes it: ids and mask -> scores [B, 1]."""
    import torch
    from sentence_transformers import CrossEncoder

    # Eager attention leaves plain matrix products, which the runtimes ran a little faster than exported SDPA.
    eager = {"attn_implementation": "eager"}
    model = CrossEncoder(str(checkpoint), device="cpu", local_files_only=True, model_kwargs=eager)
    pairs = [("a query", "a document"), ("another query", "another document, longer than the first one")]
    features = model.tokenizer(*zip(*pairs, strict=True), padding=True, return_tensors="pt")
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in features]

    class Scores(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return self.model(dict(zip(names, inputs, strict=True)))["scores"]

    axes = {name: {0: "batch", 1: "tokens"} for name in names} | {"scores": {0: "batch"}}
    torch.onnx.export(
        Scores().eval(),
        tuple(features[name] for name in names),
        str(folder / "model.onnx"),
        input_names=names,
        output_names=["scores"],
        dynamic_axes=axes,
        opset_version=OPSET,
        dynamo=False,  # the newer exporter's rotary embedding takes a batch of one only
    )


def export_onnx_int8(_checkpoint: Path, folder: Path) -> None:
    """Dynamic int8 with a scale for each output channel; 7-bit weights where products could saturate."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        folder / "model.onnx",
        folder / "model-int8.onnx",
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=not has_vnni(),
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )


def export_openvino_int8(checkpoint: Path, folder: Path) -> None:
    """Static int8 of weights and activations, calibrated on pairs that the benchmarks do not time."""
    import nncf
    import openvino

    from peer_engines import Batches, Settings
    from peer_pairs import made_pairs

    model = openvino.Core().read_model(folder / "model.onnx")
    names = [each.get_any_name() for each in model.inputs]
    pairs = made_pairs(checkpoint, CALIBRATION_PAIRS, seed=99)
    samples = [feeds for _, feeds in Batches(checkpoint, Settings()).of(pairs, names)]
    quantised = nncf.quantize(
        model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(samples)
    )
    openvino.save_model(quantised, folder / "model-int8.xml", compress_to_fp16=False)


def export_st_onnx(checkpoint: Path, folder: Path) -> None:
    """sentence-transformers' own ONNX export, and its dynamic int8 beside it."""
    from sentence_transformers import CrossEncoder, export_dynamic_quantized_onnx_model

    target = folder / "st-onnx"
    shutil.rmtree(target, ignore_errors=True)
    model = CrossEncoder(str(checkpoint), device="cpu", backend="onnx", local_files_only=True)
    model.save_pretrained(str(target))
    kind = "avx512_vnni" if has_vnni() else "avx2"
    export_dynamic_quantized_onnx_model(model, kind, str(target))


def export_st_openvino(checkpoint: Path, folder: Path) -> None:
    """sentence-transformers' own OpenVINO export; where it knows no ModernBERT, the backbone converted here."""
    from sentence_transformers import CrossEncoder

    target = folder / "st-openvino"
    shutil.rmtree(target, ignore_errors=True)
    try:
        model = CrossEncoder(str(checkpoint), device="cpu", backend="openvino", local_files_only=True)
    except ValueError as error:
        if "unsupported architecture" not in str(error):
            raise
        shutil.copytree(checkpoint, target)
        _convert_backbone(checkpoint, target / "openvino")
    else:
        model.save_pretrained(str(target))


def _convert_backbone(checkpoint: Path, folder: Path) -> None:
    import openvino
    import torch
    from transformers import AutoModel

    backbone = AutoModel.from_pretrained(checkpoint, attn_implementation="eager").eval()

    class Backbone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = backbone

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    example = {name: torch.ones(2, 9, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        model = openvino.convert_model(Backbone(), example_input=example)
    for port, name in zip(model.inputs, example, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
    model.outputs[0].get_tensor().set_names({"last_hidden_state"})
    model.validate_nodes_and_infer_types()
    folder.mkdir()
    openvino.save_model(model, folder / "openvino_model.xml", compress_to_fp16=False)


def export_st_openvino_int8(checkpoint: Path, folder: Path) -> None:
    """sentence-transformers' static int8 of that, calibrated on a data set that lies here."""
    from sentence_transformers import CrossEncoder, export_static_quantized_openvino_model

    from peer_pairs import made_pairs

    target, data = folder / "st-openvino-int8", folder / "calibration"
    shutil.rmtree(target, ignore_errors=True)
    data.mkdir(exist_ok=True)
    with (data / "train.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence"])
        writer.writerows([" ".join(pair)] for pair in made_pairs(checkpoint, 320, seed=99))
    shutil.copytree(folder / "st-openvino", target)
    model = CrossEncoder(str(target), device="cpu", backend="openvino", local_files_only=True)
    source: dict[str, Any] = {"dataset_name": str(data), "dataset_config_name": "default"}
    source |= {"dataset_split": "train", "column_name": "sentence"}
    export_static_quantized_openvino_model(model, None, str(target), **source)
    # A folder with two models in it would load the first.
    made = next((target / "openvino").glob("*quantized*.xml"))
    for suffix in (".xml", ".bin"):
        made.with_suffix(suffix).replace(target / "openvino" / f"openvino_model{suffix}")


def has_vnni() -> bool:
    """Whether this processor multiplies u8 by s8 without saturating (VNNI, or any ARM)."""
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return True
    return "avx2" not in flags or "vnni" in flags


EXPORTS: dict[str, Callable[[Path, Path], None]] = {
    "onnx": export_onnx,
    "onnx-int8": export_onnx_int8,
    "openvino-int8": export_openvino_int8,
    "st-onnx": export_st_onnx,
    "st-openvino": export_st_openvino,
    "st-openvino-int8": export_st_openvino_int8,
}
NEEDS = {
    "onnx": ("sentence-transformers", "onnx"),
    "onnx-int8": ("onnxruntime", "onnx"),
    "openvino-int8": ("openvino", "nncf", "tokenizers"),
    "st-onnx": ("sentence-transformers", "optimum-onnx", "onnxruntime"),
    "st-openvino": ("sentence-transformers", "optimum-intel", "openvino"),
    "st-openvino-int8": ("sentence-transformers", "optimum-intel", "openvino", "nncf", "datasets"),
}


if __name__ == "__main__" and sys.argv[1:2] and sys.argv[1] in EXPORTS:
    EXPORTS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
