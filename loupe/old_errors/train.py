"""Errors of train that are about to move to where they are raised."""

from collections.abc import Iterable, Mapping, Sequence

from loupe import errors

SHOWN_CHARACTERS = 80
SHOWN_COLUMNS = 12


class InvalidTraining(errors.LoupeError):
    """A hyperparameter that cannot be."""

    code = "invalid_training"
    exit_code = 2

    def __init__(self, option: str, expected: str, received: str) -> None:
        super().__init__(f"{option}: expected {expected}. Received: {received}.")


class TrainingDiverged(errors.LoupeError):
    """The loss is no number any more."""

    code = "training_diverged"

    def __init__(self, epoch: int, learning_rate: float) -> None:
        super().__init__(
            f"The loss became NaN or infinite in epoch {epoch}. Nothing was saved. "
            f"Train with a learning rate lower than {learning_rate:g}."
        )


class TrainingInterrupted(errors.LoupeError):
    """Ctrl-C: the run's checkpoints stay."""

    code = "training_interrupted"
    exit_code = 130  # as a shell reports SIGINT

    def __init__(self, done: int, epochs: int) -> None:
        super().__init__(f"Stopped after {done} of {epochs} epochs; the checkpoints stay.")
        self.done = done


class CheckpointFailed(errors.LoupeError):
    """The checkpoint of an epoch could not be written."""

    code = "checkpoint_failed"

    def __init__(self, folder: str, reason: str, done: int) -> None:
        super().__init__(
            f"The checkpoint could not be written to {folder}: {reason}. Make room there, or set LOUPE_DATA_DIR; "
            f"the run can go on after epoch {done}."
        )


class RunNotFound(errors.LoupeError):
    """No training run to go on with."""

    code = "run_not_found"
    exit_code = 2

    def __init__(self, run: str, folder: str, known: Iterable[str]) -> None:
        names = ", ".join(known)
        super().__init__(
            f"No unfinished training run '{run}' in {folder}. "
            + (f"There are: {names}." if names else "There is none.")
        )


class AccuracyTooLow(errors.LoupeError):
    """A trained model that is not good enough to be saved."""

    code = "accuracy_too_low"

    def __init__(self, accuracy: float, minimum: float) -> None:
        super().__init__(
            f"Expected a test accuracy of at least {_fraction(minimum)} (--min-accuracy). Received: {_fraction(accuracy)}, "
            f"which is {_fraction(minimum - accuracy)} below. The model was not saved."
        )


class InvalidLogits(errors.LoupeError):
    """A model that answers with something other than numbers."""

    code = "invalid_logits"

    def __init__(self, split: str, wrong: int, images: int, first: int) -> None:
        super().__init__(
            f"Expected finite logits for every image of the {split} split. Received: NaN or infinity for {wrong:,} of {images:,}, "
            f"first for image {first:,}. The training diverged: lower the learning rate, or choose another optimiser."
        )


class EnginesDisagree(errors.LoupeError):
    """The exported files of one model give different answers."""

    code = "engines_disagree"

    def __init__(self, difference: float, tolerance: float, labels: int) -> None:
        super().__init__(
            f"Expected ONNX Runtime and Keras to agree within {tolerance:g} on every test image. "
            f"Received: a difference of {difference:.2g}, and {labels} different labels. The model was not saved."
        )


class UnknownDataset(errors.LoupeError):
    """No data set goes by that name."""

    code = "unknown_dataset"
    exit_code = 2

    def __init__(self, name: str, known: Iterable[str], nearest: str | None) -> None:
        meant = f"Did you mean {nearest}? " if nearest else ""
        super().__init__(
            f"There is no data set '{name}'. {meant}Expected one of {', '.join(known)}."
        )


class InvalidDatasetOption(errors.LoupeError):
    """An option that means nothing for this data set."""

    code = "invalid_dataset_option"
    exit_code = 2

    def __init__(self, option: str, dataset: str, reason: str) -> None:
        super().__init__(f"The data set '{dataset}' does not take {option}: {reason}.")


class ImpossibleFraction(errors.LoupeError):
    """A fraction of images that cannot be split off."""

    code = "impossible_fraction"
    exit_code = 2

    def __init__(self, fraction: float, images: int, classes: int) -> None:
        super().__init__(
            "Expected a fraction between 0 and 1 that leaves every class an image on both sides of the split. "
            f"Received: {fraction:g}, of {images:,} images in {classes:,} classes."
        )


class FolderNotFound(errors.LoupeError):
    """No folder where a data set's should be."""

    code = "folder_not_found"
    exit_code = 2

    def __init__(self, folder: str, received: str) -> None:
        super().__init__(f"Expected a folder at '{folder}'. Received: {received}.")


class DatasetNotFound(errors.DatasetNotFound):
    """The files of a data set are nowhere to be had."""

    code = "dataset_not_found"

    def __init__(self, name: str, tried: Iterable[str], advice: str) -> None:
        places = "\n".join(f"  - {place}" for place in tried)
        super().__init__(f"The data set '{name}' was not found. Tried:\n{places}\n{advice}")


class InvalidDataset(errors.InvalidDataset):
    """Files that cannot be trained on."""

    code = "invalid_dataset"

    def __init__(self, where: str, expected: str, received: str, advice: str = "") -> None:
        super().__init__(
            f"Expected {expected} in '{where}'. Received: {received}.{advice and ' ' + advice}"
        )


class FolderUnreadable(InvalidDataset):
    """A folder of a data set that cannot be listed."""

    code = "folder_unreadable"

    def __init__(self, folder: str, problem: str) -> None:
        Exception.__init__(
            self, f"Expected a folder that can be listed at '{folder}'. Received: {problem}."
        )


class UnknownSplit(InvalidDataset):
    """Folders beside `train`, `validation` and `test` that are none of them."""

    code = "unknown_split"

    def __init__(self, where: str, folders: Iterable[str]) -> None:
        super().__init__(
            where,
            "no other folders beside train/, validation/ and test/",
            ", ".join(f"{folder}/" for folder in folders),
            "Rename or move them.",
        )


class OneClass(InvalidDataset):
    """Nothing to tell apart."""

    code = "one_class"

    def __init__(self, where: str, classes: Sequence[str]) -> None:
        super().__init__(
            where,
            "images of at least two classes",
            f"one class, '{classes[0]}'" if classes else "no class at all",
            "In folder:DIR, each folder is a class.",
        )


class EmptySplit(InvalidDataset):
    """A split without a single image."""

    code = "empty_split"

    def __init__(self, where: str, split: str) -> None:
        super().__init__(where, f"images in the {split} split", "none")


class ClassesDiffer(InvalidDataset):
    """Splits that do not have the same classes."""

    code = "classes_differ"

    def __init__(
        self, where: str, split: str, missing: Sequence[str], unknown: Sequence[str]
    ) -> None:
        received = [f"no image of {_quoted(missing)}"] if missing else []
        received += [f"images of {_quoted(unknown)}, which train has not"] if unknown else []
        super().__init__(where, f"the same classes in {split} as in train", " and ".join(received))


class TooFewImages(InvalidDataset):
    """Classes too small to learn and to measure."""

    code = "too_few_images"

    def __init__(self, where: str, few: Mapping[str, int], minimum: int) -> None:
        super().__init__(
            where,
            f"at least {minimum} readable images of each class",
            ", ".join(f"{count} of '{name}'" for name, count in few.items()),
            "Add images, or take the class away.",
        )


class InvalidIdx(InvalidDataset):
    """A file that is not the IDX file it should be."""

    code = "invalid_idx"

    def __init__(self, path: str, expected: str, received: str) -> None:
        Exception.__init__(self, f"Expected {expected} at '{path}'. Received: {received}.")


class CountsDiffer(InvalidDataset):
    """Images and labels that do not belong together."""

    code = "counts_differ"

    def __init__(self, where: str, split: str, images: int, labels: int) -> None:
        super().__init__(
            where,
            f"as many labels as images in the {split} split",
            f"{images:,} images, {labels:,} labels",
        )


class LabelsOutside(InvalidDataset):
    """Labels that no class name stands for."""

    code = "labels_outside"

    def __init__(self, where: str, split: str, classes: int, outside: Sequence[int]) -> None:
        super().__init__(
            where,
            f"labels from 0 to {classes - 1} in the {split} split, as there are {classes} class names",
            f"{', '.join(map(str, outside[:5]))}{' and others' if len(outside) > 5 else ''}",
        )


class InvalidClassNames(InvalidDataset):
    """A list of class names that does not name each class once."""

    code = "invalid_class_names"

    def __init__(self, path: str, received: str) -> None:
        Exception.__init__(
            self,
            f"Expected one class name a line in '{path}', each different. Received: {received}.",
        )


class InvalidMapping(InvalidDataset):
    """Folders of pictures that are not given a class of the data set they are mixed into."""

    code = "invalid_mapping"

    def __init__(self, where: str, expected: str, received: str, classes: Iterable[str]) -> None:
        super().__init__(where, expected, received, f"The classes are: {', '.join(classes)}.")


class FileNotWritable(errors.LoupeError):
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


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _fraction(value: float) -> str:
    """Six digits, without the zeros at the end: as exact as a test set can be."""
    return f"{value:.6f}".rstrip("0").rstrip(".")
