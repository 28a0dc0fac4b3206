"""Every error Loupe raises on purpose.

    LoupeError
    ├── InvalidRequest              400
    │   ├── InvalidJson             400
    │   ├── BodyTooLarge            413
    │   ├── TooManyImages           413
    │   └── UnsupportedMediaType    415
    ├── InvalidImage                422
    │   ├── ImageTooLarge           422
    │   ├── ImageTooSmall           422
    │   └── AnimatedImage           422
    ├── InvalidPixels               422
    ├── ModelNotFound               404
    │   └── LabelNotFound           404
    ├── ModelCorrupted              500
    ├── StoreUnwritable
    ├── NotBetter
    ├── NotComparable
    ├── NothingToRollBack
    ├── VersionNeeded
    ├── LabelInUse
    ├── NotConfirmed
    ├── ReportNotFound
    ├── EngineUnavailable           500
    ├── EngineFailed                500
    ├── Overloaded                  429
    ├── DeadlineExceeded            504
    ├── ShuttingDown                503
    ├── InvalidSetting
    ├── UnknownDataset
    ├── InvalidDatasetOption
    ├── ImpossibleFraction
    ├── FolderNotFound
    ├── DatasetNotFound
    ├── InvalidLogits
    ├── InvalidDataset
    │   ├── FolderUnreadable
    │   ├── UnknownSplit
    │   ├── OneClass
    │   ├── EmptySplit
    │   ├── ClassesDiffer
    │   ├── TooFewImages
    │   ├── InvalidIdx
    │   ├── CountsDiffer
    │   ├── LabelsOutside
    │   ├── InvalidClassNames
    │   └── InvalidMapping
    ├── FileNotWritable
    ├── AccuracyTooLow
    ├── InvalidTraining
    ├── TrainingDiverged
    ├── TrainingInterrupted
    ├── ClassicsInterrupted
    ├── CheckpointFailed
    ├── RunNotFound
    ├── SweepMismatch
    ├── SweepDamaged
    ├── SweepInterrupted
    ├── SweepProcessDied
    ├── EnginesDisagree
    ├── RedisUnavailable            503
    ├── JobNotFound                 404
    ├── InvalidSource               422
    ├── SourceChanged               409
    ├── InvalidOutput               422
    ├── AddressInUse
    ├── ProgramFailed
    └── JobFailed

Each class builds its message from typed arguments and knows its code and HTTP status; raising is all a caller does.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


class LoupeError(Exception):
    """The base: a message for people, a `code` for programs, an HTTP `status` for the service, an exit code for the terminal."""

    code = "internal_error"
    status = 500
    exit_code = 1  # 2 where the command itself was wrong, as for unknown options

    @property
    def message(self) -> str:
        """What was expected, what came, and what to do."""
        return str(self)

    def to_json(self) -> dict[str, str]:
        """The one shape of an error, wherever it is reported."""
        return {"error": self.message, "code": self.code}


# Requests


class InvalidRequest(LoupeError):
    """The request itself is not what the route takes."""

    code = "invalid_request"
    status = 400

    def __init__(self, expected: str, received: str) -> None:
        super().__init__(f"Expected {expected}. Received: {received}.")


class InvalidJson(InvalidRequest):
    """The body says it is JSON and is not."""

    code = "invalid_json"


class BodyTooLarge(InvalidRequest):
    """The body has more bytes than the service takes."""

    code = "body_too_large"
    status = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"a body of at most {limit_bytes:,} bytes (LOUPE_MAX_BODY_BYTES)", "a longer one")


class TooManyImages(InvalidRequest):
    """One request holds more images than the service takes."""

    code = "too_many_images"
    status = 413

    def __init__(self, limit: int, received: int) -> None:
        super().__init__(
            f"at most {limit:,} images in one request (LOUPE_MAX_IMAGES_PER_REQUEST); "
            "send several requests, or score the set as a job",
            f"{received:,}",
        )


class UnsupportedMediaType(InvalidRequest):
    """The `Content-Type` is none that the route reads."""

    code = "unsupported_media_type"
    status = 415


# Images


class InvalidImage(LoupeError):
    """Bytes that cannot be read as one picture."""

    code = "invalid_image"
    status = 422

    def __init__(self, received: str) -> None:
        super().__init__(f"Expected a whole PNG, JPEG, WebP, BMP, GIF or TIFF image. Received: {received}.")


class ImageTooLarge(InvalidImage):
    """A picture whose header promises more pixels than Loupe decodes."""

    code = "image_too_large"

    def __init__(self, width: int, height: int, limit: int) -> None:
        Exception.__init__(
            self,
            f"Expected an image of at most {limit:,} pixels (LOUPE_MAX_IMAGE_PIXELS). "
            f"Received: {width:,} × {height:,} = {width * height:,}.",
        )


class ImageTooSmall(InvalidImage):
    """A picture too small to show anything."""

    code = "image_too_small"

    def __init__(self, width: int, height: int, minimum: int) -> None:
        Exception.__init__(
            self, f"Expected an image of at least {minimum} × {minimum} pixels. Received: {width} × {height}."
        )


class AnimatedImage(InvalidImage):
    """A file that holds several pictures."""

    code = "animated_image"

    def __init__(self, kind: str) -> None:
        Exception.__init__(
            self, f"Expected one picture. Received: a {kind} of several frames; send the frame you mean."
        )


class InvalidPixels(LoupeError):
    """An array that is not images as the models take them."""

    code = "invalid_pixels"
    status = 422

    def __init__(self, expected: str, received: str) -> None:
        super().__init__(f"Expected {expected}. Received: {received}.")


# Models


class ModelNotFound(LoupeError):
    """No model by that tag."""

    code = "model_not_found"
    status = 404

    def __init__(self, tag: str | None, known: Iterable[str]) -> None:
        names = ", ".join(known)
        wanted = f"Model '{tag}' is not there." if tag is not None else "The model store is empty."
        advice = f"There are: {names}." if names else "Train one first: loupe train --dataset fashion-mnist"
        super().__init__(f"{wanted} {advice}")


class LabelNotFound(ModelNotFound):
    """No model by that label."""

    code = "label_not_found"

    def __init__(self, tag: str, deleted: str | None, known: Iterable[str]) -> None:
        name, _, label = tag.partition(":")
        problem = f"points at {deleted}, which is not in the store any more" if deleted else "has never been given"
        versions = ", ".join(known)
        advice = f"Promote one of {versions}: loupe models promote TAG" if versions else f"There is no model '{name}'."
        Exception.__init__(self, f"Model '{tag}' is not there: the label '{label}' of '{name}' {problem}. {advice}")


class ModelCorrupted(LoupeError):
    """A stored model whose files are not those that were saved."""

    code = "model_corrupted"

    def __init__(self, tag: str, file: str, problem: str) -> None:
        super().__init__(
            f"Model '{tag}' cannot be trusted: {file} {problem}. Delete it from the store and train again."
        )


class StoreUnwritable(LoupeError):
    """The model store cannot be used: a disk that is full, a folder of somebody else, a file where a folder should be."""

    code = "store_unwritable"

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(
            f"Expected to read and write the model store at '{os.fspath(path)}'. Received: {reason}. Nothing was saved. "
            "Make room there, or choose a folder of your own: BENTOML_HOME."
        )

    @classmethod
    def of(cls, error: OSError, path: Path) -> "StoreUnwritable":
        """For what the system said of a path in the store."""
        # Copying a folder tells of every file that failed; the first is enough.
        first = error.args[0][0][-1] if error.args and isinstance(error.args[0], list) else None
        where = "" if error.filename is None else f" ({error.filename})"
        return cls(path, str(first or f"{error.strerror or error}{where}"))


class AccuracyTooLow(LoupeError):
    """A trained model that is not good enough to be saved."""

    code = "accuracy_too_low"

    def __init__(self, accuracy: float, minimum: float) -> None:
        super().__init__(
            f"Expected a test accuracy of at least {_fraction(minimum)} (--min-accuracy). Received: {_fraction(accuracy)}, "
            f"which is {_fraction(minimum - accuracy)} below. The model was not saved."
        )


class NotBetter(LoupeError):
    """A model to be promoted that is no better than the one in production."""

    code = "not_better"

    def __init__(self, tag: str, accuracy: float, production: str, production_accuracy: float) -> None:
        below = production_accuracy - accuracy
        super().__init__(
            f"Expected a test accuracy above {_fraction(production_accuracy)}, that of {production} in production. "
            f"Received: {tag} with {_fraction(accuracy)}, {f'{_fraction(below)} below' if below else 'no better'}, "
            f"on the same test set. Promote it all the same: loupe models promote {tag} --force"
        )


class NotComparable(LoupeError):
    """A model to be promoted that was measured on other images than the one in production."""

    code = "not_comparable"

    def __init__(self, tag: str, accuracy: float, production: str, production_accuracy: float) -> None:
        super().__init__(
            f"Expected the test set that {production} in production was measured on. Received: {tag}, measured on another: "
            f"its test accuracy of {_fraction(accuracy)} cannot be compared with {_fraction(production_accuracy)}. "
            f"Promote it all the same: loupe models promote {tag} --force"
        )


class NothingToRollBack(LoupeError):
    """A name without an earlier version in production."""

    code = "nothing_to_roll_back"

    def __init__(self, name: str, production: str | None, deleted: Iterable[str]) -> None:
        gone = ", ".join(deleted)
        if production is None:
            received = f"'{name}', of which nothing has been promoted"
        elif gone:
            received = f"'{name}': before {production} there was {gone}, not in the store any more"
        else:
            received = f"'{name}', of which {production} is the first"
        super().__init__(f"Expected the name of a model that had another version in production. Received: {received}.")


class VersionNeeded(LoupeError):
    """A name where one version of it must be meant."""

    code = "version_needed"
    exit_code = 2

    def __init__(self, tag: str) -> None:
        super().__init__(
            f"Expected one version, as NAME:VERSION. Received: '{tag}'. `loupe models` lists the versions there are."
        )


class LabelInUse(LoupeError):
    """A model to be deleted that a label points at."""

    code = "label_in_use"

    def __init__(self, tag: str, label: str, others: Iterable[str]) -> None:
        versions = ", ".join(others)
        advice = (
            f"Promote one of {versions} first: loupe models promote TAG"
            if versions
            else f"It is the only version; to be rid of it all the same: bentoml models delete {tag}"
        )
        super().__init__(f"Expected a model without a label. Received: {tag}, which is '{label}'. {advice}")


class NotConfirmed(LoupeError):
    """Something that cannot be undone, where nobody can be asked."""

    code = "not_confirmed"
    exit_code = 2

    def __init__(self, action: str) -> None:
        super().__init__(f"Expected --yes to {action} where no terminal is there to ask. Nothing was done.")


class ReportNotFound(LoupeError):
    """A stored model without a report."""

    code = "report_not_found"

    def __init__(self, tag: str, file: str) -> None:
        super().__init__(
            f"Expected {file} in the folder of {tag}. Received: none; it was saved without a report. "
            "Models trained now have one: loupe train"
        )


class EngineUnavailable(LoupeError):
    """The chosen engine is not installed."""

    code = "engine_unavailable"

    def __init__(self, engine: str, extra: str) -> None:
        super().__init__(f"The engine '{engine}' is not installed. Install it: pip install 'loupe[{extra}]'")


class EngineFailed(LoupeError):
    """The engine raised, or answered with the wrong number of rows."""

    code = "engine_failed"


class InvalidLogits(LoupeError):
    """A model that answers with something other than numbers."""

    code = "invalid_logits"

    def __init__(self, split: str, wrong: int, images: int, first: int) -> None:
        super().__init__(
            f"Expected finite logits for every image of the {split} split. Received: NaN or infinity for {wrong:,} of {images:,}, "
            f"first for image {first:,}. The training diverged: lower the learning rate, or choose another optimiser."
        )


class EnginesDisagree(LoupeError):
    """The exported files of one model give different answers."""

    code = "engines_disagree"

    def __init__(self, difference: float, tolerance: float, labels: int) -> None:
        super().__init__(
            f"Expected ONNX Runtime and Keras to agree within {tolerance:g} on every test image. "
            f"Received: a difference of {difference:.2g}, and {labels} different labels. The model was not saved."
        )


class InvalidTraining(LoupeError):
    """A hyperparameter that cannot be."""

    code = "invalid_training"
    exit_code = 2

    def __init__(self, option: str, expected: str, received: str) -> None:
        super().__init__(f"{option}: expected {expected}. Received: {received}.")


class TrainingDiverged(LoupeError):
    """The loss is no number any more."""

    code = "training_diverged"

    def __init__(self, epoch: int, learning_rate: float) -> None:
        super().__init__(
            f"The loss became NaN or infinite in epoch {epoch}. Nothing was saved. "
            f"Train with a learning rate lower than {learning_rate:g}."
        )


class TrainingInterrupted(LoupeError):
    """Ctrl-C: the run's checkpoints stay."""

    code = "training_interrupted"
    exit_code = 130  # as a shell reports SIGINT

    def __init__(self, done: int, epochs: int) -> None:
        super().__init__(f"Stopped after {done} of {epochs} epochs; the checkpoints stay.")
        self.done = done


class ClassicsInterrupted(LoupeError):
    """Ctrl-C while the tutorials' models are trained: the rows that were finished stay."""

    code = "classics_interrupted"
    exit_code = 130  # as a shell reports SIGINT

    def __init__(self, done: int, rows: int) -> None:
        super().__init__(
            f"Stopped; {done} of {rows} rows are done and kept, and only the training in hand begins anew. "
            "Go on: the same command again."
        )


class CheckpointFailed(LoupeError):
    """The checkpoint of an epoch could not be written."""

    code = "checkpoint_failed"

    def __init__(self, folder: str, reason: str, done: int) -> None:
        super().__init__(
            f"The checkpoint could not be written to {folder}: {reason}. Make room there, or set LOUPE_DATA_DIR; "
            f"the run can go on after epoch {done}."
        )


class RunNotFound(LoupeError):
    """No training run to go on with."""

    code = "run_not_found"
    exit_code = 2

    def __init__(self, run: str, folder: str, known: Iterable[str]) -> None:
        names = ", ".join(known)
        super().__init__(
            f"No unfinished training run '{run}' in {folder}. "
            + (f"There are: {names}." if names else "There is none.")
        )


class SweepMismatch(LoupeError):
    """The folder holds the results of another sweep."""

    code = "sweep_mismatch"
    exit_code = 2

    def __init__(self, folder: str, differences: Mapping[str, tuple[str, str]]) -> None:
        told = "; ".join(f"{name}: {there} there, {asked} asked for" for name, (there, asked) in differences.items())
        super().__init__(
            f"Expected the sweep that was begun in '{folder}', or a new folder. Received another: {told}. "
            "Ask for the same again to go on with it, or choose another --out."
        )


class SweepDamaged(LoupeError):
    """A file of a sweep's folder that is not as it was written."""

    code = "sweep_damaged"

    def __init__(self, file: str, place: str, expected: str, received: str, advice: str) -> None:
        super().__init__(f"Expected {expected} in {place} of '{file}'. Received: {received}. {advice}")


class SweepInterrupted(LoupeError):
    """Ctrl-C: the results so far stay."""

    code = "sweep_interrupted"
    exit_code = 130  # as a shell reports SIGINT

    def __init__(self, folder: str, done: int, total: int) -> None:
        super().__init__(
            f"Stopped after {done:,} of {total:,} trainings; their results are in '{folder}'. The same command goes on."
        )


class SweepProcessDied(LoupeError):
    """A process that trained for a sweep was ended from outside."""

    code = "sweep_process_died"

    def __init__(self, done: int, total: int, jobs: int) -> None:
        fewer = f", with fewer than {jobs} --jobs if memory was short" if jobs > 1 else ""
        super().__init__(
            f"A process that trained was killed, after {done:,} of {total:,} trainings. The same command goes on{fewer}."
        )


# Service


class Overloaded(LoupeError):
    """More work is waiting than the service keeps."""

    code = "overloaded"
    status = 429

    def __init__(self, waiting: int, limit: int) -> None:
        super().__init__(
            f"Expected at most {limit:,} images waiting (LOUPE_MAX_QUEUED_IMAGES). "
            f"Received more while {waiting:,} wait; try again in a second."
        )


class DeadlineExceeded(LoupeError):
    """The answer would come later than anybody waits for it."""

    code = "deadline_exceeded"
    status = 504

    def __init__(self, timeout_seconds: float) -> None:
        super().__init__(
            f"No answer within {timeout_seconds:g} s (LOUPE_REQUEST_TIMEOUT_SECONDS); nothing was computed."
        )


class ShuttingDown(LoupeError):
    """The service has stopped taking work."""

    code = "shutting_down"
    status = 503

    def __init__(self) -> None:
        super().__init__("The service is shutting down; send the request again.")


# Settings, programs and data


class InvalidSetting(LoupeError):
    """An environment variable or option with a value it cannot have."""

    code = "invalid_setting"

    def __init__(self, problems: Mapping[str, tuple[str, str]]) -> None:
        super().__init__(
            "; ".join(f"{name} has value {value!r}: {expected}" for name, (value, expected) in problems.items())
        )


class UnknownDataset(LoupeError):
    """No data set goes by that name."""

    code = "unknown_dataset"
    exit_code = 2

    def __init__(self, name: str, known: Iterable[str], nearest: str | None) -> None:
        meant = f"Did you mean {nearest}? " if nearest else ""
        super().__init__(f"There is no data set '{name}'. {meant}Expected one of {', '.join(known)}.")


class InvalidDatasetOption(LoupeError):
    """An option that means nothing for this data set."""

    code = "invalid_dataset_option"
    exit_code = 2

    def __init__(self, option: str, dataset: str, reason: str) -> None:
        super().__init__(f"The data set '{dataset}' does not take {option}: {reason}.")


class ImpossibleFraction(LoupeError):
    """A fraction of images that cannot be split off."""

    code = "impossible_fraction"
    exit_code = 2

    def __init__(self, fraction: float, images: int, classes: int) -> None:
        super().__init__(
            "Expected a fraction between 0 and 1 that leaves every class an image on both sides of the split. "
            f"Received: {fraction:g}, of {images:,} images in {classes:,} classes."
        )


class FolderNotFound(LoupeError):
    """No folder where a data set's should be."""

    code = "folder_not_found"
    exit_code = 2

    def __init__(self, folder: str, received: str) -> None:
        super().__init__(f"Expected a folder at '{folder}'. Received: {received}.")


class InvalidDataset(LoupeError):
    """Files that cannot be trained on."""

    code = "invalid_dataset"

    def __init__(self, where: str, expected: str, received: str, advice: str = "") -> None:
        super().__init__(f"Expected {expected} in '{where}'. Received: {received}.{advice and ' ' + advice}")


class FolderUnreadable(InvalidDataset):
    """A folder of a data set that cannot be listed."""

    code = "folder_unreadable"

    def __init__(self, folder: str, problem: str) -> None:
        Exception.__init__(self, f"Expected a folder that can be listed at '{folder}'. Received: {problem}.")


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

    def __init__(self, where: str, split: str, missing: Sequence[str], unknown: Sequence[str]) -> None:
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
            where, f"as many labels as images in the {split} split", f"{images:,} images, {labels:,} labels"
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
        Exception.__init__(self, f"Expected one class name a line in '{path}', each different. Received: {received}.")


class InvalidMapping(InvalidDataset):
    """Folders of pictures that are not given a class of the data set they are mixed into."""

    code = "invalid_mapping"

    def __init__(self, where: str, expected: str, received: str, classes: Iterable[str]) -> None:
        super().__init__(where, expected, received, f"The classes are: {', '.join(classes)}.")


class DatasetNotFound(LoupeError):
    """The files of a data set are nowhere to be had."""

    code = "dataset_not_found"

    def __init__(self, name: str, tried: Iterable[str], advice: str) -> None:
        places = "\n".join(f"  - {place}" for place in tried)
        super().__init__(f"The data set '{name}' was not found. Tried:\n{places}\n{advice}")


class FileNotWritable(LoupeError):
    """A file that cannot be written where it should be."""

    code = "file_not_writable"

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"Expected to be able to write '{path}'. Received: {problem}.")


class AddressInUse(LoupeError):
    """The service cannot listen where it should."""

    code = "address_in_use"

    def __init__(self, host: str, port: int, problem: str) -> None:
        super().__init__(
            f"Expected {host}:{port} to be free to listen on. Received: {problem}. "
            "Choose another: --port or LOUPE_PORT."
        )


class ProgramFailed(LoupeError):
    """A process that Loupe started ended when it should not have."""

    code = "program_failed"

    def __init__(self, program: str, problem: str, output: str = "") -> None:
        super().__init__(f"{program} {problem}." + (f" Its last words:\n{output}" if output else ""))


# Bulk scoring


class RedisUnavailable(LoupeError):
    """No Redis where one should be."""

    code = "redis_unavailable"
    status = 503

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"Expected a Redis at {where}. Received: {problem}.")


class JobNotFound(LoupeError):
    """No job by that id."""

    code = "job_not_found"
    status = 404

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job '{job_id}' is not known. List the known ones: loupe jobs")


class InvalidSource(LoupeError):
    """A source of images that cannot be scored."""

    code = "invalid_source"
    status = 422

    def __init__(self, source: str, received: str) -> None:
        super().__init__(
            f"Expected a folder of images, an .npy array or an IDX file at '{source}'. Received: {received}."
        )


class SourceChanged(LoupeError):
    """A source that is no longer what the job was planned on."""

    code = "source_changed"
    status = 409

    def __init__(self, source: str) -> None:
        super().__init__(f"'{source}' has changed since the job began. Submit it again, into a new output folder.")


class InvalidOutput(LoupeError):
    """An output folder that cannot take a job's results."""

    code = "invalid_output"
    status = 422

    def __init__(self, output: str, received: str) -> None:
        super().__init__(f"Expected '{output}' to be a new or empty folder. Received: {received}.")


class JobFailed(LoupeError):
    """A job that ended without its whole result."""

    code = "job_failed"

    def __init__(self, job_id: str, error: str) -> None:
        super().__init__(f"Job {job_id} failed: {error}")


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _fraction(value: float) -> str:
    """Six digits, without the zeros at the end: as exact as a test set can be."""
    return f"{value:.6f}".rstrip("0").rstrip(".")
