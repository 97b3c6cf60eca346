"""`patronus import-reference`: turn a checkpoint of the paper's authors into one of this package."""

from patronus_pl.modules.checkpoint import save_module
from patronus_pl.modules.reference import load_reference
from patronus_pl.runs import writable_file


def import_reference(directory: str, out: str = "model.ckpt") -> None:
    """Turn a checkpoint of the paper's authors (ckpt.tar with config.txt or config.pickle) into one of this package.

    Args:
        directory: folder that holds the files, or any folder above with one checkpoint below it.
        out: checkpoint to write.
    """
    model = load_reference(directory)
    save_module(model, writable_file(out))
    print(f"{model.prototypes.count} prototypes, images {model.image_shape} -> {out}")
