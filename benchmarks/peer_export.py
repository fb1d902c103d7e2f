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
    model, features = _eager_model(checkpoint)
    _to_onnx(model, features, "scores", folder / "model.onnx")


def export_backbone(checkpoint: Path, folder: Path) -> None:
    """The encoder alone of a modular checkpoint, for a backend that computes the head itself."""
    if (checkpoint / "modules.json").is_file():
        model, features = _eager_model(checkpoint)
        _to_onnx(model[0], features, "token_embeddings", folder / "backbone.onnx")


def _eager_model(checkpoint: Path) -> tuple[Any, dict[str, Any]]:
    """The model, and the features of two pairs. Eager attention leaves plain matrix products, which the runtimes
    ran a little faster than exported SDPA."""
    from sentence_transformers import CrossEncoder

    eager = {"attn_implementation": "eager"}
    model = CrossEncoder(str(checkpoint), device="cpu", local_files_only=True, model_kwargs=eager)
    pairs = [("a query", "a document"), ("another query", "another document, longer than the first one")]
    features = model.tokenizer(*zip(*pairs, strict=True), padding=True, return_tensors="pt")
    wanted = ("input_ids", "attention_mask", "token_type_ids")
    return model, {name: features[name] for name in wanted if name in features}


def _to_onnx(model: Any, features: dict[str, Any], output: str, path: Path) -> None:
    import torch

    class Forward(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return self.model(dict(zip(features, inputs, strict=True)))[output]

    axes = {name: {0: "batch", 1: "tokens"} for name in features}
    axes[output] = {0: "batch"} if output == "scores" else {0: "batch", 1: "tokens"}
    torch.onnx.export(
        Forward().eval(),
        tuple(features.values()),
        str(path),
        input_names=list(features),
        output_names=[output],
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
        _convert_backbone(folder / "backbone.onnx", target / "openvino")
    else:
        model.save_pretrained(str(target))


def _convert_backbone(source: Path, folder: Path) -> None:
    import openvino

    model = openvino.Core().read_model(source)
    model.outputs[0].get_tensor().set_names({"last_hidden_state"})
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
    "backbone": export_backbone,
    "onnx-int8": export_onnx_int8,
    "openvino-int8": export_openvino_int8,
    "st-onnx": export_st_onnx,
    "st-openvino": export_st_openvino,
    "st-openvino-int8": export_st_openvino_int8,
}
NEEDS = {
    "onnx": ("sentence-transformers", "onnx"),
    "backbone": ("sentence-transformers", "onnx"),
    "onnx-int8": ("onnxruntime", "onnx"),
    "openvino-int8": ("openvino", "nncf", "tokenizers"),
    "st-onnx": ("sentence-transformers", "optimum-onnx", "onnxruntime"),
    "st-openvino": ("sentence-transformers", "optimum-intel", "openvino"),
    "st-openvino-int8": ("sentence-transformers", "optimum-intel", "openvino", "nncf", "datasets"),
}


if __name__ == "__main__" and sys.argv[1:2] and sys.argv[1] in EXPORTS:
    EXPORTS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
