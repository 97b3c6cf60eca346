"""Take images apart into activations and noise, change activations, and decode."""
