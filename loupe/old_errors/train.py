"""Errors of train that are about to move to where they are raised."""

from collections.abc import Mapping

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


class SweepMismatch(errors.LoupeError):
    """The folder holds the results of another sweep."""

    code = "sweep_mismatch"
    exit_code = 2

    def __init__(self, folder: str, differences: Mapping[str, tuple[str, str]]) -> None:
        told = "; ".join(
            f"{name}: {there} there, {asked} asked for"
            for name, (there, asked) in differences.items()
        )
        super().__init__(
            f"Expected the sweep that was begun in '{folder}', or a new folder. Received another: {told}. "
            "Ask for the same again to go on with it, or choose another --out."
        )


class SweepDamaged(errors.LoupeError):
    """A file of a sweep's folder that is not as it was written."""

    code = "sweep_damaged"

    def __init__(self, file: str, place: str, expected: str, received: str, advice: str) -> None:
        super().__init__(
            f"Expected {expected} in {place} of '{file}'. Received: {received}. {advice}"
        )


class SweepInterrupted(errors.LoupeError):
    """Ctrl-C: the results so far stay."""

    code = "sweep_interrupted"
    exit_code = 130  # as a shell reports SIGINT

    def __init__(self, folder: str, done: int, total: int) -> None:
        super().__init__(
            f"Stopped after {done:,} of {total:,} trainings; their results are in '{folder}'. The same command goes on."
        )


class SweepProcessDied(errors.LoupeError):
    """A process that trained for a sweep was ended from outside."""

    code = "sweep_process_died"

    def __init__(self, done: int, total: int, jobs: int) -> None:
        fewer = f", with fewer than {jobs} --jobs if memory was short" if jobs > 1 else ""
        super().__init__(
            f"A process that trained was killed, after {done:,} of {total:,} trainings. The same command goes on{fewer}."
        )


class ClassicsInterrupted(errors.LoupeError):
    """Ctrl-C while the tutorials' models are trained: the rows that were finished stay."""

    code = "classics_interrupted"
    exit_code = 130  # as a shell reports SIGINT

    def __init__(self, done: int, rows: int) -> None:
        super().__init__(
            f"Stopped; {done} of {rows} rows are done and kept, and only the training in hand begins anew. "
            "Go on: the same command again."
        )
