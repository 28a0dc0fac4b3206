"""Local models: the forms of pictures, errors, folders, and what terminals and notebooks show."""

import base64
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, fields
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import loupe
from loupe import LocalModel, Prediction, PredictionError
from loupe.client.cli import MAX_FOLDER_PICTURES
from loupe.client.local import BATCH_IMAGES
from loupe.client.predictions import View
from loupe.client.uploads import PictureInput
from loupe.errors import InvalidImage, InvalidPixels, InvalidRequest, InvalidSource, ModelNotFound
from loupe.images.decode import MAX_FILE_BYTES
from loupe.images.spec import ImageSpec
from loupe.models.answers import check_split
from loupe.models.engines.engine import Engine
from loupe.models.store import StoredModel
from tests.support import pictures
from tests.support.command import Loupe

DIGITS = pictures.digits(3, seed=7)
NAMES = ["a.png", "b.png", "below/c.png"]


@pytest.fixture(scope="module")
def model(digits_model: StoredModel) -> LocalModel:
    return loupe.load("digits")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of three digits, one of them in a subfolder, and a text."""
    folder = tmp_path / "some pictures"
    for name, image in zip(NAMES, DIGITS, strict=True):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(pictures.png(image))
    (folder / "notes.txt").write_text("socks")
    return folder


def answers(outcomes: list[Prediction | PredictionError]) -> list[Prediction]:
    found = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
    assert len(found) == len(outcomes)
    return found


# Answers


def test_the_model_answers_every_form_of_a_picture_alike(
    model: LocalModel, digits_model: StoredModel, engine: Engine, tmp_path: Path
) -> None:
    file = tmp_path / "digit.png"
    file.write_bytes(pictures.png(DIGITS[0]))
    image = Image.fromarray(DIGITS[0])
    forms: list[PictureInput] = [
        *(file, str(file), file.read_bytes(), image, Image.open(io.BytesIO(file.read_bytes()))),
        *(DIGITS[0], DIGITS[0][:, :, None], np.dstack([DIGITS[0]] * 3)),
    ]
    expected = engine.predict(DIGITS[:1])[0]

    first = model.predict(file)
    assert (model.tag, first.model) == (digits_model.tag, digits_model.tag)
    assert first.index == int(expected.argmax())
    np.testing.assert_allclose(list(first.probabilities.values()), expected, atol=1e-5)
    assert [model.predict(form) for form in forms] == [first] * len(forms)
    together = answers(list(model.predict_many(forms)))
    assert {answer.label for answer in together} == {first.label}
    np.testing.assert_allclose(
        [list(answer.probabilities.values()) for answer in together],
        [list(first.probabilities.values())] * len(forms),
        atol=1e-5,
    )


def test_many_pictures_keep_their_order_and_their_own_errors(model: LocalModel) -> None:
    images = pictures.digits(2 * BATCH_IMAGES + 3, seed=1)
    mixed: list[PictureInput] = list(images)
    mixed[5], mixed[BATCH_IMAGES] = b"socks", Path("absent.png")
    outcomes = list(model.predict_many(mixed))

    expected = [answer.index for answer in answers(list(model.predict_many(images)))]
    found = [each.index if isinstance(each, Prediction) else each.code for each in outcomes]
    expected[5] = expected[BATCH_IMAGES] = "invalid_image"  # type: ignore[call-overload]
    assert found == expected
    assert list(model.predict_many([])) == []


def test_an_endless_generator_is_read_as_needed(model: LocalModel) -> None:
    read = 0

    def endless() -> Iterator[PictureInput]:
        nonlocal read
        while True:
            read += 1
            yield DIGITS[0]

    outcomes = model.predict_many(endless())

    assert isinstance(next(outcomes), Prediction)
    assert read == BATCH_IMAGES


def test_a_folder_stands_for_its_pictures(
    model: LocalModel, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from_folder = answers(list(model.predict_many(folder)))

    assert from_folder == answers(list(model.predict_many(str(folder))))
    assert [each.index for each in from_folder] == [model.predict(each).index for each in DIGITS]
    assert ".txt 1" in caplog.text
    with pytest.raises(InvalidImage, match=f"predict_many.*loupe score '{folder}'"):
        model.predict(folder)
    (folder / "empty").mkdir()
    with pytest.raises(InvalidSource, match="empty"):
        next(model.predict_many(folder / "empty"))


def test_pictures_without_ink_get_a_reason_in_place_of_a_label(model: LocalModel) -> None:
    blank, digit = model.predict_many([np.full((60, 60), 240, np.uint8), DIGITS[0]])

    assert isinstance(blank, Prediction)
    assert isinstance(digit, Prediction)
    assert (blank.label, blank.index, blank.reason) == (None, None, "blank")
    assert "blank" in str(blank)
    assert (digit.label is None, digit.reason) == (False, None)


def test_each_of_several_digits_is_predicted(model: LocalModel, tmp_path: Path) -> None:
    page = pictures.strokes(3)
    (tmp_path / "page.png").write_bytes(pictures.png(page))

    found = model.split(page)

    assert len(found) == 3
    assert found == model.split(tmp_path / "page.png")
    boxes = [each.box for each in found]
    assert boxes == sorted(box for box in boxes if box is not None)
    assert all(each.view is not None for each in found)
    assert model.split(np.full((60, 60), 240, np.uint8)) == []
    with pytest.raises(InvalidRequest):
        model.split(page, normalize="off")


def test_only_models_of_single_symbols_split_pictures(model: LocalModel) -> None:
    with pytest.raises(InvalidRequest):
        check_split("signs:1", ImageSpec("ink"), "auto")
    check_split(model.tag, model.card.input, "auto")


def test_split_prints_a_line_for_each_digit(
    model: LocalModel, loupe: Loupe, tmp_path: Path
) -> None:
    page, blank, text = tmp_path / "page.png", tmp_path / "blank.png", tmp_path / "notes.txt"
    page.write_bytes(pictures.png(pictures.strokes(3)))
    blank.write_bytes(pictures.png(np.full((60, 60), 240, np.uint8)))
    text.write_text("socks")
    here = ("--local", "--split", "--model", "digits")

    ended = loupe("predict", page, blank, text, "--json", *here)

    assert ended.code == 1
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert [line["file"] for line in lines] == [str(page)] * 3 + [str(text)]
    assert [len(line["box"]) for line in lines[:3]] == [4] * 3
    assert lines[3]["code"] == "invalid_image"
    assert "blank.png: blank" in ended.err
    assert loupe("predict", page, *here).out.count("page.png") == 3
    assert loupe("predict", page, *here, "--grid", tmp_path / "grid.png").code == 2


def test_options_change_the_answer(model: LocalModel) -> None:
    all_classes = model.predict(DIGITS[0])
    two = model.predict(DIGITS[0], top_k=2, threshold=1, lang="en")

    assert (two.label, two.index, two.abstained) == (None, None, True)
    assert list(two.probabilities.items()) == all_classes.best(2)
    light = model.predict(255 - DIGITS[0], normalize="off")
    assert light.view is not None
    assert (light.view.seen == 255 - DIGITS[0]).all()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        pytest.param({"top_k": 0}, "invalid_request", id="no class"),
        pytest.param({"threshold": 2}, "invalid_request", id="more than sure"),
        pytest.param({"normalize": "on"}, "invalid_request", id="normalize"),
        pytest.param({"lang": "xx"}, "unknown_language", id="language"),
        pytest.param({"topk": 1}, "invalid_request", id="unknown"),
    ],
)
def test_options_are_refused_with_the_codes_of_the_service(
    model: LocalModel, options: dict[str, object], code: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        model.predict(DIGITS[0], **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest) as raised_by_many:
        next(model.predict_many(DIGITS, **options))  # type: ignore[arg-type]
    assert raised.value.code == raised_by_many.value.code == code


@pytest.mark.parametrize(
    ("picture", "kind", "code"),
    [
        pytest.param(b"", InvalidImage, "invalid_image", id="empty"),
        pytest.param(b"socks", InvalidImage, "invalid_image", id="text"),
        pytest.param(pictures.huge_png(20_000), InvalidImage, "image_too_large", id="huge"),
        pytest.param(pictures.png(DIGITS[0])[:90], InvalidImage, "invalid_image", id="truncated"),
        pytest.param(np.zeros((28, 28)), InvalidPixels, "invalid_pixels", id="floats"),
        pytest.param(None, InvalidPixels, "invalid_pixels", id="nothing"),
    ],
)
def test_an_error_is_raised_for_one_and_returned_among_many(
    model: LocalModel, picture: PictureInput, kind: type[Exception], code: str
) -> None:
    with pytest.raises(kind) as raised:
        model.predict(picture)
    assert raised.value.code == code  # type: ignore[attr-defined]
    (outcome,) = model.predict_many([picture])
    assert isinstance(outcome, PredictionError)
    assert outcome.code == code
    assert str(outcome).startswith(code)


def test_an_unknown_model_is_not_found(digits_model: StoredModel) -> None:
    with pytest.raises(ModelNotFound) as raised:
        loupe.load("birds")
    assert raised.value.code == "model_not_found"


def test_the_default_is_that_of_a_service(
    digits_model: StoredModel, shapes_model: StoredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loupe.load().tag == digits_model.tag
    monkeypatch.setenv("LOUPE_MODEL", shapes_model.tag)
    assert loupe.load().tag == shapes_model.tag


# Terminals and notebooks


class Page(HTMLParser):
    """The tags, texts and images of an HTML fragment."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[Image.Image] = []
        self.classes: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name == "src":
                data = (value or "").removeprefix("data:image/png;base64,")
                self.images.append(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.tags[-1] == "bdi":
            self.classes.append(data)
            self.tags.append("")


@pytest.mark.parametrize("form", ["path", "bytes", "array", "image"])
def test_a_notebook_shows_the_picture_what_the_model_saw_and_bars(
    model: LocalModel, form: str, tmp_path: Path
) -> None:
    photo = Image.new("RGB", (300, 200), (240, 240, 240))
    photo.paste(Image.fromarray(pictures.digit_sheet()), (80, 30))
    photo.save(tmp_path / "photo.png")
    forms: dict[str, PictureInput] = {
        "path": tmp_path / "photo.png",
        "bytes": (tmp_path / "photo.png").read_bytes(),
        "array": np.asarray(photo),
        "image": photo,
    }
    answer = model.predict(forms[form])
    page = Page(answer._repr_html_())

    shown, seen = page.images
    assert shown.mode == "RGB"
    assert shown.width > shown.height > 28
    assert answer.view is not None
    assert (np.asarray(seen) == answer.view.seen).all()
    assert page.classes == [name for name, _ in answer.best(5)]
    assert model.tag in page.text


def test_a_model_explains_what_it_saw(model: LocalModel) -> None:
    answer = model.predict(pictures.digit_sheet(), explain="saliency")
    plain = model.predict(pictures.digit_sheet())

    assert answer == plain
    assert answer.view is not None
    assert plain.view is not None
    assert [step.step for step in plain.view.steps][-1] == "centred"
    assert plain.view.saliency is None
    assert answer.view.saliency is not None
    assert answer.view.saliency.shape == (224, 224, 3)
    assert len(Page(answer._repr_html_()).images) == 3


def test_a_model_shows_the_nearest_training_pictures(model: LocalModel) -> None:
    answer = model.predict(pictures.digit_sheet(), explain="nearest")

    assert answer.view is not None
    assert answer.view.nearest is not None
    assert len(answer.view.nearest) == 3
    assert len(Page(answer._repr_html_()).images) == 2 + 3


def test_a_picture_that_is_gone_does_not_prevent_the_page(model: LocalModel, folder: Path) -> None:
    answer = model.predict(folder / "a.png")
    (folder / "a.png").unlink()

    assert len(Page(answer._repr_html_()).images) == 1


def test_class_names_are_escaped() -> None:
    hostile = "<script>alert('\"&')</script>\x1b[31m"
    answer = Prediction(hostile, hostile, 0, 0.75, {hostile: 0.75, "b": 0.25})
    page = Page(answer._repr_html_())

    assert set(page.tags) == {"div", "span", "strong", "bdi", ""}
    assert page.text.count("<script>alert('\"&')</script>\\u001b[31m") == 3
    assert "\x1b" not in str(answer)


def test_an_answer_of_a_service_is_shown_without_a_picture() -> None:
    answer = Prediction("m:1", None, None, 0.4, {"a": 0.1, "b": 0.4}, abstained=True)
    page = Page(answer._repr_html_())

    assert page.images == []
    assert "unsure" in page.text
    assert "0.4000" in page.text


def test_a_terminal_shows_the_most_probable_classes_in_one_line(model: LocalModel) -> None:
    answer = model.predict(DIGITS[0])
    text = str(answer)

    doubt = "unfamiliar: " if answer.unfamiliar else ""
    assert text.startswith(f"{doubt}{answer.label} {answer.confidence:.4f}")
    assert model.tag in text
    assert "\n" not in text
    assert model.tag in repr(model)


def test_the_picture_is_no_part_of_the_answer(model: LocalModel) -> None:
    answer = model.predict(DIGITS[0])
    copy = deepcopy(answer)

    assert isinstance(copy.view, View)
    assert copy == answer == Prediction(**asdict(answer))
    assert "view" not in {field.name for field in fields(answer)}
    assert json.loads(json.dumps(asdict(answer))) == asdict(answer)


def test_large_files_are_not_kept_of_many(model: LocalModel) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)
    (answer,) = answers(list(model.predict_many([pictures.png(noise)])))

    assert answer.view is not None
    assert answer.view.picture is None
    assert len(Page(answer._repr_html_()).images) == 1


# The command


def test_command_predicts_without_a_service(
    loupe: Loupe, model: LocalModel, folder: Path, tmp_path: Path
) -> None:
    options = ("--model", "digits", "--top-k", "2", "--threshold", "1")
    files = [folder / name for name in NAMES]
    ended = loupe("predict", "--local", folder, *options, "--json", "--grid", tmp_path / "g.png")

    lines = [json.loads(line) for line in ended.out.splitlines()]
    expected = [asdict(model.predict(file, top_k=2, threshold=1)) for file in files]
    for name in ("box", "prediction_set"):
        assert [each.pop(name) for each in expected] == [None] * len(files)  # no line has one
    assert ended.code == 0
    assert ".txt 1" in ended.err
    assert [line.pop("file") for line in lines] == list(map(str, files))
    assert [line["probabilities"].keys() for line in lines] == [
        each["probabilities"].keys() for each in expected
    ]
    assert [{**line, "probabilities": 0, "confidence": 0} for line in lines] == [
        {**each, "probabilities": 0, "confidence": 0} for each in expected
    ]
    with Image.open(tmp_path / "g.png") as grid:
        assert grid.format == "PNG"


def test_command_reports_a_file_that_cannot_be_read(
    loupe: Loupe, digits_model: StoredModel, folder: Path
) -> None:
    ended = loupe("predict", "--local", folder / "a.png", folder / "notes.txt", "--json")

    first, second = map(json.loads, ended.out.splitlines())
    assert ended.code == 1
    assert first["model"] == digits_model.tag
    assert second["code"] == "invalid_image"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        pytest.param(["--model", "birds"], 1, "error: model_not_found: ", id="unknown model"),
        pytest.param(["--lang", "xx"], 1, "error: unknown_language: ", id="unknown language"),
        pytest.param(["--url", "http://h"], 2, "error: invalid_usage: ", id="and a service"),
        pytest.param(["--api-key", "key"], 2, "error: invalid_usage: ", id="and a key"),
    ],
)
def test_command_refuses_what_it_cannot_use(
    loupe: Loupe,
    digits_model: StoredModel,
    folder: Path,
    arguments: list[str],
    code: int,
    text: str,
) -> None:
    ended = loupe("predict", "--local", folder / "a.png", *arguments)

    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith(text)
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("where", [["--local"], ["--url", "http://127.0.0.1:9"]])
def test_command_names_the_job_for_a_large_folder(
    loupe: Loupe, tmp_path: Path, where: list[str]
) -> None:
    large = tmp_path / "large folder"
    large.mkdir()
    for number in range(MAX_FOLDER_PICTURES + 1):
        (large / f"{number}.png").touch()
    ended = loupe("predict", large, *where)

    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("error: too_many_images: ")
    assert f"loupe score '{large}'" in ended.err


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", pictures.png(DIGITS[0]))
    return file.getvalue()


def _tar(mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        data = pictures.png(DIGITS[0])
        member = tarfile.TarInfo("a.png")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, DIGITS)
    return file.getvalue()


def test_a_file_as_large_as_an_archive_names_the_job(model: LocalModel, tmp_path: Path) -> None:
    with (tmp_path / "huge.zip").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(InvalidImage, match=f"loupe score {tmp_path / 'huge.zip'}"):
        model.predict(tmp_path / "huge.zip")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param("pictures.zip", _zip(), id="zip"),
        pytest.param("pictures", _zip(), id="zip without a suffix"),
        pytest.param("pictures.tar", _tar("w"), id="tar"),
        pytest.param("pictures.tar.gz", _tar("w:gz"), id="gzip"),
        pytest.param("pictures.tar.xz", _tar("w:xz"), id="xz"),
        pytest.param("pictures.tar.bz2", _tar("w:bz2"), id="bzip2"),
        pytest.param("table.parquet", b"PAR1" + bytes(20), id="parquet"),
        pytest.param("array.npy", _npy(), id="npy"),
        pytest.param("t10k-images-idx3-ubyte", b"\0\0\x08\x03" + bytes(800), id="idx"),
    ],
)
def test_command_names_the_job_for_a_file_of_many_pictures(
    loupe: Loupe, digits_model: StoredModel, tmp_path: Path, name: str, data: bytes
) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "a.png").write_bytes(pictures.png(DIGITS[0]))
    ended = loupe("predict", "--local", tmp_path / name, tmp_path / "a.png", "--json")

    refused, answered = map(json.loads, ended.out.splitlines())
    assert ended.code == 1
    assert refused["code"] == "invalid_image"
    assert f"loupe score {tmp_path / name}" in refused["error"]
    assert answered["model"] == digits_model.tag
