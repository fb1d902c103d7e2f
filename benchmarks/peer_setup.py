"""Installs the engines that Runoff is compared with, each set in an environment of its own under build/peers.

Three environments, because no single one holds them all: the exporters of ONNX and OpenVINO that sentence-transformers
uses need an older transformers each. Versions are those of the recorded figures. About 2 GB each; an environment
that is complete is left as it is, one that was interrupted is made anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "build" / "peers"
TORCH = "torch==2.13.0" + ("+cpu" if sys.platform == "linux" else "")
COMMON = ("numpy==2.4.6", "onnx==1.23.2", "onnxruntime==1.32.0")
OPENVINO = ("openvino==2026.4.1", "nncf==3.4.0")
ENVIRONMENTS = {
    # onnxruntime and openvino used directly, with exports of our own
    "1-runtimes": (
        *COMMON,
        *OPENVINO,
        "onnxscript==0.7.2",
        "sentence-transformers==6.2.0",
        "transformers==5.23.0",
    ),
    # sentence-transformers' ONNX backend
    "2-onnx": (
        *COMMON,
        "optimum-onnx==0.1.0",
        "optimum==2.1.0",
        "sentence-transformers==5.7.0",
        "transformers==4.57.6",
    ),
    # sentence-transformers' OpenVINO backend
    "3-openvino": (
        *COMMON,
        *OPENVINO,
        "optimum-intel==2.2.0",
        "optimum==2.3.0",
        "sentence-transformers==6.2.0",
        "transformers==5.5.4",
    ),
}


def install(folder: Path, packages: list[str], torch_index: str | None) -> None:
    """A fresh environment with the packages; the mark that it is complete comes last."""
    mark = folder / "complete.json"
    if mark.exists() and json.loads(mark.read_text("utf-8")) == packages:
        print(f"{folder}: is there")
        return
    print(f"{folder}: installing {', '.join(packages)}", flush=True)
    if folder.exists():
        shutil.rmtree(folder)
    venv.create(folder, with_pip=True)
    command = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
    ]
    index = ["--extra-index-url", torch_index] if torch_index else []
    done = subprocess.run([*command, *index, *packages], check=False)
    if done.returncode:
        sys.exit(f"{folder}: pip could not install {', '.join(packages)}; what it said stands above")
    mark.write_text(json.dumps(packages), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peers", type=Path, default=PEERS, metavar="FOLDER", help="where (default: build/peers)"
    )
    parser.add_argument("--only", choices=ENVIRONMENTS, help="one of them")
    parser.add_argument("--torch", default=TORCH, help=f"the build of torch (default: {TORCH})")
    parser.add_argument(
        "--torch-index", metavar="URL", help="where pip finds that build, if not in its own index"
    )
    options = parser.parse_args()
    for name, packages in ENVIRONMENTS.items():
        if options.only in (None, name):
            install(options.peers / name, [options.torch, *packages], options.torch_index)


if __name__ == "__main__":
    main()
