"""How fast are cached batches, beside decoding each JPEG again every epoch? And does memory grow?

Writes JPEGs of CelebA's size (178×218) to a temporary folder, caches them at 64×64, then counts images a second of

- decoding: Pillow opens and resizes each file when its batch is asked for, as a `Dataset` over files does;
- cache, mapped: shuffled batches of 64 from the memory-mapped cache, normalised to [-1, 1] as the device does;
- cache, in memory: the same from memory;

each the median of five epochs, and the process's memory after each of ten epochs over the mapped cache.

python benchmarks/data.py [--images 20000] [--quick]
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from report import RUNS, options, report
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from patronus_pl.data import ImageFolder
from patronus_pl.pixels import as_floats

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
        batches = (as_floats(batch["image"]) for batch in loader)
        speeds.append(images_per_second(batches, len(loader) * BATCH))
        memory.append(memory_mb())
    return speeds, memory


def main() -> None:
    chosen = options(
        __doc__, "data", images=20000, workers=0, epochs=10
    )  # CelebA has 202,599; workers are the baseline's
    images, decoded, count = (600, 100, 5) if chosen.quick else (chosen.images, 2000, chosen.epochs)
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), images)
        start = time.perf_counter()
        mapped = data_module(Path(folder), in_memory_mb=0)
        mapped.setup("fit")
        build = images / (time.perf_counter() - start)
        some = sorted(Path(folder).glob("*.jpg"))[:decoded]
        files = DataLoader(Files(some), BATCH, shuffle=True, num_workers=chosen.workers)
        decoding = [images_per_second(files, len(some)) for _ in range(RUNS)]
        speeds, memory = epochs(mapped, count)
        from_memory, _ = epochs(data_module(Path(folder), in_memory_mb=100_000), RUNS)
    plain = statistics.median(decoding)
    speed = {"building the cache": build, "decoding": plain, "mapped": statistics.median(speeds)}
    speed["in memory"] = statistics.median(from_memory)
    rows = [{"way": way, "images_per_second": value, "times_decoding": value / plain} for way, value in speed.items()]
    growth = memory[-1]["RssAnon"] - memory[len(memory) // 2]["RssAnon"]
    report(rows, chosen, growth_mb_second_half=growth, memory_mb_each_epoch=memory, goal="mapped 50 times decoding")


if __name__ == "__main__":
    main()
