"""The one exception that means: the user can put this right."""


class UserError(Exception):
    """Shown as one line, without a traceback; its message names the offender and the way out."""
