"""How long one epoch takes: training images/s of each config's model on this machine, times the images of its data set.

Usage: python benchmarks/epoch_time.py [--out FILE]        Prints a table; writes JSON.
Protocol: random images of the config's shape, batch 8 (1 above 64 pixels), forward and backward in the machine's best
precision, one step of warm-up, median of five.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch
import yaml
from lightning.pytorch.cli import instantiate_module

from patronus_pl.hardware import best_precision
from patronus_pl.modules import PatronusModule

IMAGES = {  # training images of the official splits
    "quickstart": 20_000,
    "fashion_mnist": 55_000,
    "cifar10": 45_000,
    "ffhq": 56_000,
    "celeba": 162_770,
    "chexpert": 187_000,  # frontal views, patients kept for validation left out; approximate
}
RUNS = 5


def images_per_second(config: Path) -> float:
    section = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]
    model = instantiate_module(PatronusModule, {"_class_path": section["class_path"], **section["init_args"]}).train()
    model = model.to(memory_format=torch.channels_last)
    batch = 8 if model.image_shape[1] <= 64 else 1  # one image of 224 pixels is work enough for the two cores
    images = torch.randn(batch, *model.image_shape).to(memory_format=torch.channels_last)
    t, noise = torch.randint(0, model.schedule.timesteps, (batch,)), torch.randn_like(images)
    seconds = []
    for _ in range(1 + RUNS):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=best_precision() == "bf16-mixed"):
            s = model.prototypes(model.encoder(images))
            loss = model.denoising_loss(model._network(s), images, noise, t).mean()
        loss.backward()
        seconds.append(time.perf_counter() - start)
    return batch / statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="benchmarks/results/epoch_time.json")
    out = Path(parser.parse_args().out)
    rows = []
    for name, count in IMAGES.items():
        speed = images_per_second(Path(__file__).parent.parent / "configs" / f"{name}.yaml")
        rows.append({"config": name, "images": count, "images_per_second": speed, "epoch_hours": count / speed / 3600})
        print(f"{name:<14}{speed:>8.2f} images/s   {count:>8} images   {rows[-1]['epoch_hours']:>8.2f} hours an epoch")
    out.parent.mkdir(parents=True, exist_ok=True)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "precision": best_precision(),
    }
    out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
