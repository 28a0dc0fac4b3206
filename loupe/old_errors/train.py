"""Errors of train that are about to move to where they are raised."""

from loupe import errors


class InvalidTraining(errors.InvalidUsage):
    """A hyperparameter that cannot be."""

    code = "invalid_training"
    exit_code = 2

    def __init__(self, option: str, expected: str, received: str) -> None:
        super().__init__(f"{option}: expected {expected}. Received: {received}.")


class FileNotWritable(errors.NotWritable):
    """A file that cannot be written where it should be."""

    code = "file_not_writable"

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"Expected to be able to write '{path}'. Received: {problem}.")


class ClassicsInterrupted(errors.LoupeError):
    """Ctrl-C while the tutorials' models are trained: the rows that were finished stay."""

    code = "classics_interrupted"
    exit_code = 130  # as a shell reports SIGINT

    def __init__(self, done: int, rows: int) -> None:
        super().__init__(
            f"Stopped; {done} of {rows} rows are done and kept, and only the training in hand begins anew. "
            "Go on: the same command again."
        )
