"""The Lightning modules."""

from patronus_pl.modules.patronus import PatronusModule

__all__ = ["PatronusModule"]
