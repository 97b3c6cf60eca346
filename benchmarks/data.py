"""How fast are cached batches, beside decoding each JPEG again every epoch? And does memory grow?

Writes JPEGs of CelebA's size (178×218) to a temporary folder, caches them at 64×64, then counts images a second of

- decoding: Pillow opens and resizes each file when its batch is asked for, as a `Dataset` over files does;
- cache, mapped: shuffled batches of 64 from the memory-mapped cache, normalised to [-1, 1] as the device does;
- cache, in memory: the same from memory;

each the best of several epochs, and the process's memory after each epoch of the mapped cache.

    python benchmarks/data.py --out data.json
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from patronus_pl.data import ImageFolder
from patronus_pl.data.base import normalise

WIDTH, HEIGHT, SIZE, BATCH = 178, 218, 64, 64


def write_photographs(folder: Path, count: int) -> None:
    """Smooth random pictures with a little grain: as many bytes as CelebA's files (about 10 kB); 500 differ."""
    rng = np.random.default_rng(0)
    for i in tqdm(range(count), desc="writing JPEGs"):
        if i >= 500:
            shutil.copyfile(folder / f"{i % 500:06d}.jpg", folder / f"{i:06d}.jpg")
            continue
        blobs = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).resize(
            (WIDTH, HEIGHT), Image.Resampling.BICUBIC
        )
        grain = rng.normal(0, 6, (HEIGHT, WIDTH, 1))
        pixels = np.clip(np.asarray(blobs) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:06d}.jpg", quality=88)


class Files(Dataset[Tensor]):
    """What is compared with: each file decoded when it is asked for."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.files[index]) as image:
            pixels = np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        return torch.from_numpy(pixels.transpose(2, 0, 1) / np.float32(127.5) - 1)


def images_per_second(batches: Iterable[Tensor], count: int) -> float:
    start = time.perf_counter()
    for batch in batches:
        batch.sum()  # touch it
    return count / (time.perf_counter() - start)


def memory_mb() -> dict[str, float]:
    """Anonymous memory (what a leak grows) and all of it, pages of the mapped file included."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "VmRSS")}


def data_module(folder: Path, in_memory_mb: int) -> ImageFolder:
    return ImageFolder(
        str(folder), image_size=SIZE, batch_size=BATCH, crop="none", in_memory_mb=in_memory_mb, test_fraction=0.0
    )


def epochs(data: ImageFolder, count: int) -> tuple[list[float], list[dict[str, float]]]:
    """Speed and memory of each of so many epochs."""
    loader, speeds, memory = data.train_dataloader(), [], []
    for _ in range(count):
        batches = (normalise(batch["image"]) for batch in loader)
        speeds.append(images_per_second(batches, len(loader) * BATCH))
        memory.append(memory_mb())
    return speeds, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20000, help="how many JPEGs; CelebA has 202,599")
    parser.add_argument("--workers", type=int, default=0, help="loader processes of the decoding baseline")
    parser.add_argument("--epochs", type=int, default=10, help="over the mapped cache, for its memory")
    parser.add_argument("--out", type=Path, default=Path("data.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), options.images)
        start = time.perf_counter()
        mapped = data_module(Path(folder), in_memory_mb=0)
        mapped.setup("fit")
        build = options.images / (time.perf_counter() - start)
        some = sorted(Path(folder).glob("*.jpg"))[:2000]
        files = DataLoader(Files(some), BATCH, shuffle=True, num_workers=options.workers)
        decoding = max(images_per_second(files, len(some)) for _ in range(3))
        speeds, memory = epochs(mapped, options.epochs)
        in_memory = data_module(Path(folder), in_memory_mb=100_000)
        from_memory = max(epochs(in_memory, 3)[0])
    result = {
        "images": options.images,
        "building_the_cache_images_per_second": build,
        "decoding_images_per_second": decoding,
        "mapped_images_per_second": max(speeds),
        "in_memory_images_per_second": from_memory,
        "mapped_over_decoding": max(speeds) / decoding,
        "growth_mb_second_half": memory[-1]["RssAnon"] - memory[len(memory) // 2]["RssAnon"],
        "memory_mb_each_epoch": memory,
    }
    options.out.write_text(json.dumps(result, indent=2))
    print(f"{'':24}{'images/s':>12}{'× decoding':>12}")
    for name in ("building_the_cache", "decoding", "mapped", "in_memory"):
        speed = result[f"{name}_images_per_second"]
        print(f"{name.replace('_', ' '):24}{speed:12,.0f}{speed / decoding:12.1f}")
    print("memory, MB (anonymous / all), each epoch:")
    print("  ".join(f"{epoch['RssAnon']:.0f}/{epoch['VmRSS']:.0f}" for epoch in memory))
    print(f"growth over the second half of the epochs: {result['growth_mb_second_half']:.1f} MB")


if __name__ == "__main__":
    main()
