"""Errors that a user can act on: each message names the thing, the value that was found, and the remedy.

The command line prints them as one line and exits with code 2.
"""


class PatronusError(Exception):
    """Base of all errors that wrong input causes."""


class DatasetNotFoundError(PatronusError):
    """No data set where the configuration says it is."""


class CorruptFileError(PatronusError):
    """A file is truncated, unreadable or not what its name says."""


class AttributeTableError(PatronusError):
    """A table of attributes lacks a column, repeats an id or holds a value that is no attribute."""


class InvalidOptionError(PatronusError):
    """An option has an impossible value."""


class CheckpointError(PatronusError):
    """A checkpoint is truncated, of another class, or does not fit the data."""


class OutputError(PatronusError):
    """A result cannot be written where it should go."""


class TrainingDivergedError(PatronusError):
    """The loss is no longer a number."""
