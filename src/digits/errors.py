"""Exceptions with a meaning for the commands: what the user can put right, and what a search ends early."""


class UserError(Exception):
    """Shown as one line, without a traceback; its message names the offender and the way out."""


class Pruned(Exception):
    """A search gives a run up, because it does worse than others did by the same epoch: no failure."""
