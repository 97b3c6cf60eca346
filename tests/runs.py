"""Command lines that shrink a config to seconds, with a tree of its data set in the official layout."""

from collections.abc import Callable
from pathlib import Path

from tests.data import trees

CONFIGS = Path(__file__).parent.parent / "configs"
TREES: dict[str, Callable[[Path], object]] = {
    "fashion_mnist": trees.make_fashion_mnist,
    "cifar10": trees.make_cifar10,
    "celeba": trees.make_celeba,
    "ffhq": trees.make_ffhq,
    "chexpert": trees.make_chexpert,
    "my_images": trees.make_image_folder,
}
SMALL = [
    "--data.init_args.batch_size=2",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
]


def config_args(name: str, folder: Path) -> list[str]:
    """Options that shrink a config, and a tree of its data set below `folder`, where the run goes too."""
    args = ["--config", str(CONFIGS / f"{name}.yaml"), *SMALL]
    args += [f"--trainer.logger.init_args.save_dir={folder / 'runs'}"]
    if name.endswith("_prior"):
        trees.make_activations(folder / "activations.npz", prototypes=3)
        args += [f"--data.init_args.file={folder / 'activations.npz'}"]
        return [*args, "--model.init_args.network.init_args.size=3", "--model.init_args.network.init_args.width=8"]
    args += ["--model.init_args.denoiser.init_args.base=8"]
    if name in TREES:
        root = folder / "data"
        TREES[name](root)
        args += [f"--data.init_args.root={root}"]
    else:
        args += ["--data.init_args.train_size=16", "--data.init_args.val_size=4", "--data.init_args.test_size=4"]
    return args
