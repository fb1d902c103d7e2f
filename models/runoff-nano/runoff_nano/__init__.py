"""Where the runoff-nano reranker lies on this machine: `path()`. The checkpoint travels inside this package."""

from pathlib import Path

__all__ = ["path"]


def path() -> Path:
    """Folder of the checkpoint (config.json, model.safetensors, ...), for CrossEncoder(str(path())).

    An installed wheel keeps the files in `checkpoint/` beside this module; in the repository they are one folder up.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "checkpoint", here.parent):
        if (folder / "modules.json").is_file():
            return folder
    raise FileNotFoundError(
        f"expected the checkpoint in {here / 'checkpoint'} or {here.parent}, found no modules.json in either; "
        "install the package runoff-nano again"
    )
