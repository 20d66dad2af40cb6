"""The command line: each verb is one function; torch is imported by the verb that needs it."""

from ffds.cli.main import main

__all__ = ["main"]
