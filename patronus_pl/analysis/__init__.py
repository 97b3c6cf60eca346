"""Explanations: tensors in, tensors and figures out."""
