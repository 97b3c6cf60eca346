"""Prototypes that condition, explain and steer an image diffusion model."""

__version__ = "0.1.0"
