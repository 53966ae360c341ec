"""The errors that are no defects. Scripts print each as one line, without a traceback, and exit with its code."""


class InputError(ValueError):
    """Bad input of the user's: what is wrong, where, and the mend. Exit code 2."""


class RefusedError(Exception):
    """Kaggle said no: a limit, rules not accepted, a submission that failed. Exit code 3.

    status is that of HTTP, or None where the no came otherwise.
    """

    def __init__(self, line: str, status: int | None = None):
        super().__init__(line)
        self.status = status


class UnreachableError(Exception):
    """Kaggle did not answer, or not in time, however often it was asked. Exit code 4.

    after: seconds that Kaggle asks to wait before it is asked again, where it does.
    """

    def __init__(self, line: str, after: float = 0):
        super().__init__(line)
        self.after = after
