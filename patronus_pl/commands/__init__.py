"""The commands beside Lightning's own: one a file, a typed function whose docstring is its help page.

`patronus some-command` calls `some_command` of `commands/some_command.py`; nothing else of the package is imported.
"""
