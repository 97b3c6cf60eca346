"""The noise schedule and the samplers: they know no network, and serve images and vectors alike."""

from patronus_pl.diffusion.samplers import Denoise, NoiseSource, Step, ddim, ddim_invert, ddpm, dpm_solver_pp, last
from patronus_pl.diffusion.schedule import NoiseSchedule

__all__ = ["Denoise", "NoiseSchedule", "NoiseSource", "Step", "ddim", "ddim_invert", "ddpm", "dpm_solver_pp", "last"]
