"""The forms of a checkpoint that other runtimes read, each made once and kept.

child.py makes one of them (`--export KIND CHECKPOINT FOLDER`) in an environment that has what it needs (`NEEDS`).
`CALIBRATION` in FOLDER holds the pairs that static quantisation is calibrated on, which no race times.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

OPSET = 17
CALIBRATION = "calibration.json"
CALIBRATION_PAIRS = 320
STATIC_PAIRS = 64  # of them, for OpenVINO used directly


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
    os.environ["HF_HUB_OFFLINE"] = "1"
    from sentence_transformers import CrossEncoder

    eager = {"attn_implementation": "eager"}
    model = CrossEncoder(str(checkpoint), device="cpu", local_files_only=True, model_kwargs=eager)
    pairs = [("a query", "a document"), ("another query", "another document, longer than the first one")]
    features = model.tokenizer(*zip(*pairs, strict=True), padding=True, return_tensors="pt")
    wanted = ("input_ids", "attention_mask", "token_type_ids")
    return model, {name: features[name] for name in wanted if name in features}


def _to_onnx(model: Any, features: dict[str, Any], output: str, path: Path) -> None:
    import torch

    class Forward(torch.nn.Module):  # type: ignore[misc] # torch counts as untyped
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any) -> Any:
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
    """Static int8 of weights and activations."""
    import nncf
    import openvino

    from runoff.bench.runtimes import DEFAULT_TOKENS, Batches

    model = openvino.Core().read_model(folder / "model.onnx")
    names = [each.get_any_name() for each in model.inputs]
    pairs = _calibration_pairs(folder)[:STATIC_PAIRS]
    samples = [feeds for _, feeds in Batches(checkpoint, 512).of(pairs, names, DEFAULT_TOKENS)]
    quantised = nncf.quantize(
        model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(samples)
    )
    openvino.save_model(quantised, folder / "model-int8.xml", compress_to_fp16=False)


def export_st_onnx(checkpoint: Path, folder: Path) -> None:
    """sentence-transformers' own ONNX export, and its dynamic int8 beside it."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from sentence_transformers import CrossEncoder, export_dynamic_quantized_onnx_model

    target = folder / "st-onnx"
    shutil.rmtree(target, ignore_errors=True)
    model = CrossEncoder(str(checkpoint), device="cpu", backend="onnx", local_files_only=True)
    model.save_pretrained(str(target))
    kind = "avx512_vnni" if has_vnni() else "avx2"
    export_dynamic_quantized_onnx_model(model, kind, str(target))


def export_st_openvino(checkpoint: Path, folder: Path) -> None:
    """sentence-transformers' own OpenVINO export; where it knows no ModernBERT, the backbone converted here."""
    os.environ["HF_HUB_OFFLINE"] = "1"
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


def export_st_openvino_int8(_checkpoint: Path, folder: Path) -> None:
    """sentence-transformers' static int8 of that, calibrated on a data set that lies here."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from sentence_transformers import CrossEncoder, export_static_quantized_openvino_model

    target, data = folder / "st-openvino-int8", folder / "calibration"
    shutil.rmtree(target, ignore_errors=True)
    data.mkdir(exist_ok=True)
    with (data / "train.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence"])
        writer.writerows([" ".join(pair)] for pair in _calibration_pairs(folder))
    shutil.copytree(folder / "st-openvino", target)
    model = CrossEncoder(str(target), device="cpu", backend="openvino", local_files_only=True)
    source: dict[str, Any] = {"dataset_name": str(data), "dataset_config_name": "default"}
    source |= {"dataset_split": "train", "column_name": "sentence"}
    export_static_quantized_openvino_model(model, None, str(target), **source)
    # A folder with two models in it would load the first.
    made = next((target / "openvino").glob("*quantized*.xml"))
    for suffix in (".xml", ".bin"):
        made.with_suffix(suffix).replace(target / "openvino" / f"openvino_model{suffix}")


def _calibration_pairs(folder: Path) -> list[tuple[str, str]]:
    return [(query, document) for query, document in json.loads((folder / CALIBRATION).read_text("utf-8"))]


# --- random weights of kinds that numpy does not write -------------------------------------------------


def export_random_classifier(checkpoint: Path, _folder: Path) -> None:
    """Adds transformers' own random weights to a folder that has config.json and a tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(str(checkpoint)))
    model.save_pretrained(str(checkpoint))


def export_random_causal(checkpoint: Path, folder: Path) -> None:
    """The same of a causal model, whose score is the difference of two tokens' logits."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    body = folder / "causal"
    shutil.copytree(checkpoint, body)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(body))).save_pretrained(str(body))
    encoder = Transformer(str(body), transformer_task="text-generation")
    modules = [encoder, LogitScore(true_token_id=300, false_token_id=301)]
    CrossEncoder(modules=modules, device="cpu").save_pretrained(str(checkpoint), create_model_card=False)
    shutil.rmtree(body)


def has_vnni() -> bool:
    """Whether this processor multiplies u8 by s8 without saturating (VNNI, or any ARM)."""
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return True
    return "avx2" not in flags or "vnni" in flags


EXPORTS: Mapping[str, Callable[[Path, Path], None]] = {
    "onnx": export_onnx,
    "backbone": export_backbone,
    "onnx-int8": export_onnx_int8,
    "openvino-int8": export_openvino_int8,
    "st-onnx": export_st_onnx,
    "st-openvino": export_st_openvino,
    "st-openvino-int8": export_st_openvino_int8,
    "random-classifier": export_random_classifier,
    "random-causal": export_random_causal,
}
NEEDS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("sentence-transformers", "onnx"),
    "backbone": ("sentence-transformers", "onnx"),
    "onnx-int8": ("onnxruntime", "onnx"),
    "openvino-int8": ("openvino", "nncf", "tokenizers"),
    "st-onnx": ("sentence-transformers", "optimum-onnx", "onnxruntime"),
    "st-openvino": ("sentence-transformers", "optimum-intel", "openvino"),
    "st-openvino-int8": ("sentence-transformers", "optimum-intel", "openvino", "nncf", "datasets"),
    "random-classifier": ("transformers", "torch"),
    "random-causal": ("sentence-transformers", "transformers", "torch"),
}
