"""Noise schedule, predictions and samplers. They know no network, and serve images and vectors alike."""

from patronus_pl.diffusion.guidance import Guidance, guided, weights_of_rows
from patronus_pl.diffusion.prediction import Denoiser, Epsilon, Prediction, Velocity
from patronus_pl.diffusion.samplers import NoiseSource, Step, ddim, ddim_invert, ddpm, dpm_solver_pp, last, sample_steps
from patronus_pl.diffusion.sampling import Sampler, Sampling
from patronus_pl.diffusion.schedule import NoiseSchedule

__all__ = [
    "Denoiser",
    "Epsilon",
    "Guidance",
    "NoiseSchedule",
    "NoiseSource",
    "Prediction",
    "Sampler",
    "Sampling",
    "Step",
    "Velocity",
    "ddim",
    "ddim_invert",
    "ddpm",
    "dpm_solver_pp",
    "guided",
    "last",
    "sample_steps",
    "weights_of_rows",
]
