"""The denoiser's forward pass while sampling: the paper's Fashion-MNIST model, plain and as patronus samples.

python benchmarks/forward.py [--batch 64] [--quick]

Plain is fp32, contiguous, and embeds s at every step; patronus is channels_last, embeds s once for all steps, and uses
bfloat16 where it is the faster one (the table says which). `difference` is the largest one in the noise.
"""

import torch
from report import median_seconds, options, report
from steps import FAST, PLAIN, inputs, model_of


@torch.no_grad()
def main() -> None:
    chosen = options(__doc__, "forward", batch=64)
    batch, base = (2, 8) if chosen.quick else (chosen.batch, 64)
    model = model_of("fashion_mnist", base=base).eval()
    images, t, noise = inputs(model, batch)
    s = model.encode(images)
    expected = model.denoise(noise, t, s)
    plain = batch / median_seconds(lambda: model.denoise(noise, t, s))
    model = model.to(memory_format=FAST.memory_format)
    with FAST.autocast():
        denoise = model.denoiser_for(s)
        difference = float((denoise(noise, t) - expected).abs().max())
        fast = batch / median_seconds(lambda: denoise(noise, t))
    rows = [
        {"way": PLAIN.name, "precision": PLAIN.precision, "images_per_second": plain, "difference": 0.0},
        {"way": FAST.name, "precision": FAST.precision, "images_per_second": fast, "difference": difference},
    ]
    report(rows, chosen, ratio=fast / plain, goal=5.0)


if __name__ == "__main__":
    main()
