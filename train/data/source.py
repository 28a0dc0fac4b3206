"""The source of a training's images, as the command line names it."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from loupe.images.spec import Look
from train.data.datasets import DIGITS, MAY_LACK_TEST, Dataset, full_name, load_dataset
from train.data.image_options import ImageOptions
from train.data.own.extra import PREFIX, add_pictures
from train.data.own.folders import expand_user
from train.data.published import PUBLISHED
from train.data.relabel import relabelled
from train.data.splits import SPLIT_SEED


def _absolute(path: Path) -> Path:
    return expand_user(path).absolute()


def _with_absolute_path(dataset: str) -> str:
    """Make the path of `idx:DIR` and its like absolute, also if it is given alone."""
    kind, _, path = full_name(dataset).partition(":")
    return f"{kind}:{_absolute(Path(path))}" if path else dataset


def _own_folder(extra: str) -> str:
    return f"{PREFIX}{_absolute(Path(extra.removeprefix(PREFIX)))}"


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class DataSource(ImageOptions):
    """The images to learn from: arguments of `load_dataset`, `relabelled` and `add_pictures`.

    Paths are absolute, so that they mean the same in every working directory.
    """

    dataset: Annotated[str, AfterValidator(_with_absolute_path)]
    data_dir: AbsolutePath | None = None
    extra: Annotated[str, AfterValidator(_own_folder)] | None = None
    extra_classes: AbsolutePath | None = None
    relabel: AbsolutePath | None = None

    @property
    def split_here(self) -> bool:
        """True for data sets that may come without a test split, so that Loupe splits them."""
        return self.dataset in DIGITS or self.dataset.partition(":")[0] in MAY_LACK_TEST

    @property
    def recipe_look(self) -> Look:
        """The look that decides about a recipe before the images are loaded."""
        if self.dataset in PUBLISHED:
            return PUBLISHED[self.dataset].look
        return self.look or ("photo" if self.colour else "object")

    def load(self, *, test_fraction: float | None = None, split_seed: int = SPLIT_SEED) -> Dataset:
        """Load the images, with corrected labels and the user's own pictures added."""
        dataset = load_dataset(
            self.dataset,
            self.data_dir,
            options=self,
            test_fraction=test_fraction,
            split_seed=split_seed,
        )
        if self.relabel:
            dataset = relabelled(dataset, self.relabel)
        return add_pictures(dataset, self.extra, self.extra_classes) if self.extra else dataset
