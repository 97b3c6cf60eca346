"""The checker that pytest applies to every function of the package (see `addopts` in pyproject.toml)."""

from beartype import BeartypeConf, beartype

# An int is a float to every reader (PEP 484), though not to beartype by default.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
