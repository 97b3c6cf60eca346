"""Lightning's fit, validate, test and predict, with the checks of this package."""

from patronus_pl.engine.command import run_engine

__all__ = ["run_engine"]
