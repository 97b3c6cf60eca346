"""Invert images to noise, change their activations, and decode again."""
