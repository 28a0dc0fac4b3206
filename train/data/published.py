"""Published data sets: class names, look, source, licence, and how to know their images."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loupe.images.arrays import idx
from loupe.images.spec import Look, UInt8Array
from train.data.own.idx_folders import FILES


@dataclass(frozen=True)
class Download:
    """A file to download: its address, and the SHA-256 of its bytes."""

    url: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class PublishedDataset:
    """A published data set.

    Attributes:
        class_names: In the order of the labels.
        look: Look of the images.
        digests: SHA-256 of the four arrays as IDX files, in the order of `FILES`; or else
            `per_class` is checked.
        source: Authors, name and size.
        licence: Licence of the images.
        japanese: The class names in Japanese.
        shape: Shape of an image.
        per_class: Images of each class, of both splits.
        downloads: The files, except those of Keras's bucket.
    """

    class_names: tuple[str, ...]
    look: Look
    digests: tuple[str, ...] = ()
    source: str = "not stated"
    licence: str = "not stated"
    japanese: tuple[str, ...] = ()
    shape: tuple[int, ...] = (28, 28)
    per_class: tuple[int, int] = (0, 0)
    downloads: tuple[Download, ...] = ()

    def check(self, arrays: Sequence[UInt8Array]) -> None:
        """Raise `ValueError` if images and labels, in the order of `FILES`, are not these."""
        for file, array, expected in zip(FILES, arrays, self.digests, strict=False):
            if digest(array) != expected:
                raise ValueError(f"the SHA-256 of {file} is not that of the published file")
        if self.digests:
            return
        for images, labels, count in zip(arrays[::2], arrays[1::2], self.per_class, strict=True):
            counts = np.bincount(labels, minlength=len(self.class_names)).tolist()
            if images.shape != (len(labels), *self.shape) or counts != [count] * len(
                self.class_names
            ):
                raise ValueError(
                    f"images of {images.shape} with {len(labels):,} labels are not the published "
                    f"ones: {count:,} of {self.shape} in each of {len(self.class_names)} classes"
                )


def digest(array: UInt8Array) -> str:
    """Return the SHA-256, in hex, of the decompressed IDX file that holds an array."""
    return hashlib.sha256(idx.encode(array)).hexdigest()


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


PUBLISHED: dict[str, PublishedDataset] = {
    # Source: Zalando Research, Fashion-MNIST README, table "Labels"; MIT licence.
    "fashion-mnist": PublishedDataset(
        class_names=_names(
            "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
        ),
        look="object",
        digests=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        source="Zalando Research, Fashion-MNIST: 70,000 product photos, made grey and 28 × 28",
        licence="MIT",
        japanese=_names(
            "Tシャツ/トップ, ズボン, プルオーバー, ドレス, コート, "
            "サンダル, シャツ, スニーカー, バッグ, アンクルブーツ"
        ),
    ),
    # Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits"; CC BY-SA 3.0.
    "mnist": PublishedDataset(
        class_names=tuple("0123456789"),
        look="ink",
        digests=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        source="LeCun, Cortes and Burges, The MNIST database of handwritten digits: "
        "70,000 digits of some 500 people",
        licence="CC BY-SA 3.0",
        japanese=tuple("0123456789"),
    ),
    # Source: Clanuwat et al., "Deep Learning for Classical Japanese Literature", 2018. The digests
    # are those of TensorFlow Datasets.
    "kmnist": PublishedDataset(
        class_names=_names("o, ki, su, tsu, na, ha, ma, ya, re, wo"),
        look="ink",
        per_class=(6_000, 1_000),
        source="ROIS-DS Center for Open Data in the Humanities, KMNIST, adapted from the Kuzushiji "
        "Dataset (doi:10.20676/00000341): 70,000 handwritten characters",
        licence="CC BY-SA 4.0",
        japanese=_names("お, き, す, つ, な, は, ま, や, れ, を"),
        downloads=tuple(
            Download(f"http://codh.rois.ac.jp/kmnist/dataset/kmnist/{name}.gz", sha256)
            for name, sha256 in zip(
                FILES,
                (
                    "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
                    "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
                    "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
                    "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
                ),
                strict=True,
            )
        ),
    ),
    # Source: Cohen et al., "EMNIST: an extension of MNIST to handwritten letters", 2017, the split
    # "balanced", in which letters that look alike in both cases are one class. The digest is that
    # of TensorFlow Datasets.
    "emnist": PublishedDataset(
        class_names=tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"),
        look="ink",
        per_class=(2_400, 400),
        source="Cohen et al., EMNIST, balanced: 131,600 digits and letters of NIST's Special "
        "Database 19",
        downloads=(
            Download(
                "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
                "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e",
            ),
        ),
    ),
    # Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, the binary
    # version. The digests are those of TensorFlow Datasets.
    "cifar10": PublishedDataset(
        class_names=_names("airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck"),
        look="photo",
        per_class=(5_000, 1_000),
        shape=(32, 32, 3),
        source="Krizhevsky, CIFAR-10: 60,000 photos",
        downloads=(
            Download(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
    ),
    "cifar100": PublishedDataset(
        class_names=_names(
            "apple, aquarium_fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle, bowl, "
            "boy, bridge, bus, butterfly, camel, can, castle, caterpillar, cattle, chair, "
            "chimpanzee, clock, cloud, cockroach, couch, crab, crocodile, cup, dinosaur, dolphin, "
            "elephant, flatfish, forest, fox, girl, hamster, house, kangaroo, keyboard, lamp, "
            "lawn_mower, leopard, lion, lizard, lobster, man, maple_tree, motorcycle, mountain, "
            "mouse, mushroom, oak_tree, orange, orchid, otter, palm_tree, pear, pickup_truck, "
            "pine_tree, plain, plate, poppy, porcupine, possum, rabbit, raccoon, ray, road, "
            "rocket, rose, sea, seal, shark, shrew, skunk, skyscraper, snail, snake, spider, "
            "squirrel, streetcar, sunflower, sweet_pepper, table, tank, telephone, television, "
            "tiger, tractor, train, trout, tulip, turtle, wardrobe, whale, willow_tree, wolf, "
            "woman, worm"
        ),
        look="photo",
        per_class=(500, 100),
        shape=(32, 32, 3),
        source="Krizhevsky, CIFAR-100: 60,000 photos",
        downloads=(
            Download(
                "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
        ),
    ),
}
