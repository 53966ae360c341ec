"""The one error that means "your input, not our code": a single line saying what is wrong, where, and the mend."""


class InputError(ValueError):
    """Bad input of the user's. Scripts print it as one line and exit with 2, without a traceback."""
