"""The client with a real service: pictures, batches, jobs, and the examples of the pages."""

import asyncio
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import loupe
from loupe import AsyncClient, Client, Prediction, PredictionError, ScoringJob
from loupe.client.client import BATCHES_IN_FLIGHT
from loupe.client.uploads import PictureInput
from loupe.errors import InvalidImage, InvalidSource, JobFailed, RequestRefused
from loupe.images.normalize import normalize_pixels
from loupe.images.spec import Float32Array, ImageSpec, Normalize, UInt8Array
from loupe.models.engines.engine import Engine
from loupe.models.store import StoredModel
from tests.support import pictures
from tests.support.programs import RunningService, environment, run, running, serving

TOLERANCE = 1e-5  # probabilities of one image, computed in batches of different sizes
DOCS = Path(__file__).parents[3] / "docs"
PAGES = (DOCS / "client.md").read_text() + (DOCS / "python.md").read_text()
DIGIT = pictures.digits(1, seed=7)[0]


@pytest.fixture(scope="module")
def client(service: RunningService) -> Iterator[Client]:
    with Client(service.url) as client:
        yield client


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that contains pictures and a text file."""
    place = tmp_path_factory.mktemp("place")
    shutil.copytree(DOCS.parent / "examples", place / "examples")
    for folder in (place, place / "pictures"):
        folder.mkdir(exist_ok=True)
        for name, image in zip(("bag", "boot"), pictures.digits(2, seed=7), strict=True):
            (folder / f"{name}.png").write_bytes(pictures.png(image))
    (place / "pictures" / "notes.txt").write_text("socks")
    return place


def assert_answers(
    outcomes: list[Prediction | PredictionError], expected: Float32Array, model: StoredModel
) -> None:
    """Check that the predictions are the engine's, in order."""
    answers = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
    assert len(answers) == len(outcomes) == len(expected)
    probabilities = [list(answer.probabilities.values()) for answer in answers]
    np.testing.assert_allclose(probabilities, expected, atol=TOLERANCE)
    assert {answer.model for answer in answers} == {model.tag}


# One picture


def test_a_picture_gets_the_same_answer_in_every_form(
    client: Client, engine: Engine, digits_model: StoredModel, tmp_path: Path
) -> None:
    file = tmp_path / "digit.png"
    file.write_bytes(pictures.png(DIGIT))
    coloured = np.dstack([DIGIT] * 3)
    sources: list[PictureInput] = [
        file,
        str(file),
        file.read_bytes(),
        DIGIT,
        coloured,
        Image.fromarray(DIGIT),
    ]
    expected = engine.predict(DIGIT[None])

    for source in sources:
        answer = client.predict(source)
        assert_answers([answer], expected, digits_model)
        assert answer.index == int(expected[0].argmax())
        assert answer.label == digits_model.card.class_names[answer.index]
        assert answer.confidence == max(answer.probabilities.values())
    assert_answers(
        list(client.predict_many(sources)), expected.repeat(len(sources), axis=0), digits_model
    )


def test_a_local_model_answers_and_refuses_like_a_service(
    client: Client, service: RunningService, digits_model: StoredModel, tmp_path: Path
) -> None:
    photo = Image.new("RGB", (640, 480), (200, 190, 180))
    photo.paste(Image.fromarray(pictures.digit_sheet()).resize((225, 300)), (100, 90))
    file = tmp_path / "photo.jpg"
    photo.save(file)
    forms: list[PictureInput] = [
        *(file, file.read_bytes(), Image.open(io.BytesIO(file.read_bytes())), photo),
        *(np.asarray(photo), DIGIT, 255 - DIGIT),
        *(b"", b"socks", tmp_path / "absent.png", tmp_path, file.read_bytes()[:3000]),
        *(np.zeros((28, 28)), pictures.huge_png(20_000), Image.new("L", (1, 1))),
    ]
    model = loupe.load("digits")

    for normalize in get_args(Normalize):
        here = list(model.predict_many(forms, normalize=normalize))
        there = list(client.predict_many(forms, normalize=normalize, model="digits"))
        for mine, its in zip(here, there, strict=True):
            if isinstance(its, PredictionError):
                assert mine == its
                continue
            assert isinstance(mine, Prediction)
            assert (mine.model, mine.label, mine.index) == (its.model, its.label, its.index)
            assert mine.probabilities == pytest.approx(its.probabilities, abs=TOLERANCE)
    one, other = (each.predict(file, top_k=2, threshold=1) for each in (model, client))
    assert one == other


@pytest.mark.parametrize("normalize", ["auto", "off"])
def test_an_array_on_a_light_ground_is_inverted_like_its_file(
    client: Client, normalize: Normalize
) -> None:
    light = 255 - DIGIT
    forms: list[PictureInput] = [light, pictures.png(light), Image.fromarray(light)]
    singly = [client.predict(form, normalize=normalize) for form in forms]
    alone = [next(client.predict_many([form], normalize=normalize)) for form in forms]

    assert singly[1:] == alone[1:] == singly[:-1] == alone[:-1]


def test_clients_split_pictures_as_a_local_model_does(
    service: RunningService, client: Client, digits_model: StoredModel
) -> None:
    page = pictures.strokes(3)

    async def ask() -> list[Prediction]:
        async with AsyncClient(service.url) as other:
            return await other.split(page, model="digits")

    found = client.split(page, model="digits")

    assert len(found) == 3
    assert [each.box for each in found] == [each.box for each in loupe.load("digits").split(page)]
    assert found == asyncio.run(ask())


def test_options_change_the_answer(client: Client, digits_model: StoredModel) -> None:
    answer = client.predict(DIGIT, model="digits", top_k=2, threshold=1, lang="ja")

    assert (answer.model, answer.label, answer.index, answer.abstained) == (
        digits_model.tag,
        None,
        None,
        True,
    )
    assert len(answer.probabilities) == 2


def test_a_refusal_has_the_service_s_status_code_and_message(client: Client) -> None:
    for ask in (
        lambda: client.predict(DIGIT, model="birds"),
        lambda: client.split(DIGIT, model="birds"),
        lambda: list(client.predict_many([DIGIT], model="birds")),
    ):
        with pytest.raises(RequestRefused, match="birds") as raised:
            ask()

        assert (raised.value.status, raised.value.code) == (404, "model_not_found")
    with pytest.raises(RequestRefused, match="no picture") as raised:
        client.predict(b"no picture")
    assert (raised.value.status, raised.value.code) == (422, "invalid_image")
    with pytest.raises(InvalidImage, match=r"nowhere\.png"):
        client.predict("nowhere.png")


def test_served_models_are_listed(
    client: Client, digits_model: StoredModel, shapes_model: StoredModel
) -> None:
    served = {model.model: model for model in client.models()}

    assert {digits_model.tag, shapes_model.tag} <= set(served)
    assert [model.model for model in served.values() if model.default] == [digits_model.tag]
    assert served[shapes_model.tag].class_names == ["across", "upright", "square"]
    figures = served[shapes_model.tag].figures
    assert figures is not None
    assert figures["accuracy"] == shapes_model.card.measured.accuracy


# Many pictures


def test_thousands_of_pictures_keep_their_order_without_filling_memory(
    client: Client, engine: Engine, digits_model: StoredModel
) -> None:
    images = pictures.digits(5000, seed=2)
    taken = answered = furthest = 0

    def endless() -> Iterator[UInt8Array]:
        nonlocal taken, furthest
        for image in images:
            taken += 1
            furthest = max(furthest, taken - answered)
            yield image

    outcomes = []
    for outcome in client.predict_many(endless(), batch_size=100):
        answered += 1
        outcomes.append(outcome)

    assert_answers(outcomes, engine.predict(images), digits_model)
    assert furthest <= BATCHES_IN_FLIGHT * 100


def test_thousands_of_pictures_keep_their_order_without_filling_memory_asynchronously(
    service: RunningService, engine: Engine, digits_model: StoredModel
) -> None:
    images = pictures.digits(3000, seed=3)
    taken = answered = furthest = 0

    async def endless() -> AsyncIterator[UInt8Array]:
        nonlocal taken, furthest
        for image in images:
            taken += 1
            furthest = max(furthest, taken - answered)
            yield image

    async def ask() -> list[Prediction | PredictionError]:
        nonlocal answered
        outcomes = []
        async with AsyncClient(service.url) as client:
            async for outcome in client.predict_many(endless(), batch_size=100):
                answered += 1
                outcomes.append(outcome)
        return outcomes

    assert_answers(asyncio.run(ask()), engine.predict(images), digits_model)
    assert furthest <= BATCHES_IN_FLIGHT * 100


def test_an_array_of_images_is_many_pictures(
    client: Client, engine: Engine, digits_model: StoredModel
) -> None:
    images = pictures.digits(300, seed=4)

    assert_answers(list(client.predict_many(images)), engine.predict(images), digits_model)


def test_an_unreadable_picture_yields_an_error_in_order(client: Client, engine: Engine) -> None:
    images = pictures.digits(20, seed=5)
    several: list[PictureInput] = [pictures.png(image) for image in images]
    several[7:7] = [b"no picture", "nowhere.png", np.zeros((3, 3)), pictures.png(DIGIT)[:-40]]
    outcomes = list(client.predict_many(several, batch_size=8))

    errors = {
        place: each for place, each in enumerate(outcomes) if isinstance(each, PredictionError)
    }
    assert [error.code for error in errors.values()] == ["invalid_image"] * 2 + [
        "invalid_pixels",
        "invalid_image",
    ]
    assert list(errors) == [7, 8, 9, 10]
    assert "text starting 'no picture'" in errors[7].message
    assert "No such file" in errors[8].message
    indices = [outcome.index for outcome in outcomes if isinstance(outcome, Prediction)]
    assert indices == engine.predict(images).argmax(axis=1).tolist()


def test_an_empty_iterable_yields_nothing(client: Client) -> None:
    assert list(client.predict_many([])) == []


# Whole sets


@pytest.fixture(scope="module")
def worker(service_data: Path) -> Iterator[None]:
    with running(
        service_data.with_name("worker-of-clients.log"), "worker", LOUPE_DATA_DIR=service_data
    ):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return two folders with 25 pictures, one damaged, and files that are skipped."""
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for number, image in enumerate(pictures.digits(25, seed=3)):
        (folder / ("deep" if number % 2 else ".") / f"{number:02}.png").write_bytes(
            pictures.png(image)
        )
    (folder / "notes.png").write_text("socks")
    (folder / "notes.txt").write_text("socks")
    (folder / ".hidden" / "a.png").write_bytes(pictures.png(DIGIT))
    return folder


def test_a_folder_gets_the_same_rows_as_from_the_command_line(
    client: Client, worker: None, folder: Path, service_data: Path, tmp_path: Path
) -> None:
    run_of = client.score(
        folder, model="digits", format="jsonl", top_k=2, probabilities=False, threshold=0.5
    )
    states = list(run_of)
    expected = run(
        *(
            "score",
            folder,
            "--out",
            tmp_path / "out",
            "--model",
            "digits",
            "--format",
            "jsonl",
            "--single",
        ),
        *("--top-k", 2, "--no-probabilities", "--threshold", 0.5),
        LOUPE_DATA_DIR=service_data,
    )

    assert expected.returncode == 0, expected.stderr
    assert (states[0].state, states[-1].state, states[-1].done, states[-1].failed) == (
        "queued",
        "done",
        25,
        1,
    )
    assert states[-1].total == 28
    assert states[-1].skipped_files == {"hidden": {".png": 1}, "not_a_picture": {".txt": 1}}
    assert run_of.job == run_of.wait() == client.run(run_of.job.id).job == states[-1]
    assert len(set(states)) == len(states)
    saved = run_of.results(tmp_path / "results.jsonl")
    assert saved.read_bytes() == (tmp_path / "out" / "predictions.jsonl").read_bytes()
    table = pq.read_table(run_of.results(tmp_path / "results.parquet", "parquet"))
    assert table["id"].to_pylist() == [
        json.loads(line)["id"] for line in saved.read_text().splitlines()
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "images",
        "out",
        "results.jsonl",
        "results.parquet",
    ]
    (error,) = run_of.errors()
    assert (error.id, error.code) == ("notes.png", "invalid_image")
    assert "text starting 'socks'" in error.message


def test_a_folder_on_the_server_is_scored_by_path(
    client: Client, worker: None, folder: Path, tmp_path: Path
) -> None:
    run_of = client.score(folder, on_server=True, max_errors=1)
    assert (run_of.wait().done, run_of.job.source) == (25, str(folder))
    assert (run_of.job.total, run_of.job.failed, run_of.job.skipped) == (28, 1, 2)
    with pytest.raises(RequestRefused) as raised:
        client.score("/etc", on_server=True)
    assert (raised.value.status, raised.value.code) == (403, "source_forbidden")


def test_an_array_is_scored_asynchronously(
    service: RunningService, worker: None, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", pictures.digits(300, seed=6))

    async def score() -> list[ScoringJob]:
        async with AsyncClient(service.url) as client:
            run_of = await client.score(tmp_path / "images.npy", format="csv", single=True)
            states = [job async for job in run_of]
            assert await run_of.wait() == (await client.run(run_of.job.id)).job
            assert await run_of.errors() == []
            await run_of.results(tmp_path / "results.csv")
            with pytest.raises(RequestRefused) as raised:
                await run_of.cancel()
            assert raised.value.code == "job_ended"
            with pytest.raises(RequestRefused, match="nothing"):
                await client.run("nothing")
        return states

    states = asyncio.run(score())
    assert (states[-1].state, states[-1].done) == ("done", 300)
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 301


def test_waiting_for_a_failed_job_raises(client: Client, worker: None, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("socks")
    run_of = client.score(tmp_path / "notes.txt")
    with pytest.raises(JobFailed, match=run_of.job.id):
        run_of.wait()
    with pytest.raises(RequestRefused) as raised:
        run_of.results(tmp_path / "results.parquet")
    assert (raised.value.status, raised.value.code) == (409, "job_not_done")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_source_without_images_is_not_uploaded(client: Client, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidSource):
        client.score(tmp_path / name)


def test_a_job_is_cancelled(digits_model: StoredModel, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", pictures.digits(3))
    settings = {"LOUPE_DATA_DIR": tmp_path / "data", "LOUPE_MODEL": digits_model.tag}
    with serving(tmp_path / "log", **settings) as idle, Client(idle.url) as client:
        run_of = client.score(tmp_path / "images.npy")
        assert run_of.cancel().state == "cancelled"
        assert [job.state for job in run_of] == ["cancelled"]
        assert run_of.wait() == run_of.job


# The page


@pytest.mark.parametrize(
    "example",
    re.findall(r"```python\n(.*?)```", PAGES, re.DOTALL),
    ids=["one", "many", "whole set", "async", "local", "many local"],
)
def test_the_examples_of_the_documentation_run(
    service: RunningService, worker: None, place: Path, example: str
) -> None:
    script = example.replace("http://127.0.0.1:3000", service.url)
    paths = {"PYTHONPATH": str(DOCS.parent)}
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(**paths),
        cwd=place,
        capture_output=True,
        text=True,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout


# The command line


def predict(
    service: RunningService, *arguments: object, **variables: object
) -> subprocess.CompletedProcess[str]:
    return run("predict", *arguments, LOUPE_URL=service.url, **variables)


def test_files_are_printed_as_a_table_with_errors_in_their_rows(
    service: RunningService, place: Path, engine: Engine
) -> None:
    files = [place / "bag.png", place / "pictures" / "notes.txt", place / "boot.png"]
    ended = predict(service, *files, "--top-k", 2, COLUMNS=400)

    header, bag, notes, boot = ended.stdout.splitlines()
    assert ended.returncode == 1
    assert header.split() == ["file", "label", "confidence", "familiarity", "others"]
    for line, row in zip((bag, boot), engine.predict(pictures.digits(2, seed=7)), strict=True):
        first, second = np.argsort(-row)[:2]
        cells = line.split()
        assert float(cells.pop(3).removeprefix("!")) <= 1
        assert cells[1:] == [
            f"{first}",
            f"{row[first]:.4f}",
            f"{second}",
            f"{row[second]:.4f}",
        ]
    assert ("!" in ended.stdout) == ("unfamiliar" in ended.stderr)
    assert notes.startswith(f"{files[1]}  error: ")
    assert "socks" in notes


def test_files_are_printed_as_json_lines(
    service: RunningService, place: Path, digits_model: StoredModel
) -> None:
    files = [place / "bag.png", place / "nowhere.png", place / "boot.png"]
    ended = predict(
        service, *files, "--json", "--threshold", 1, "--model", "digits:latest", "--lang", "ja"
    )

    bag, nowhere, boot = map(json.loads, ended.stdout.splitlines())
    assert ended.returncode == 1
    assert [line["file"] for line in (bag, nowhere, boot)] == [str(file) for file in files]
    assert (boot["model"], boot["label"], boot["abstained"]) == (digits_model.tag, None, True)
    assert len(bag["probabilities"]) == 10
    assert "prediction_set" not in bag
    assert set(nowhere) == {"file", "error", "code"}
    assert nowhere["code"] == "invalid_image"


def test_files_are_printed_with_their_prediction_sets(
    service: RunningService, place: Path, digits_model: StoredModel
) -> None:
    options = (place / "bag.png", "--alpha", 0.005, "--model", "digits")
    table, lines = predict(service, *options, COLUMNS=400), predict(service, *options, "--json")

    found = json.loads(lines.stdout)["prediction_set"]
    assert found
    assert set(found) <= set(digits_model.card.class_names)
    assert table.stdout.splitlines()[0].endswith("one of")
    assert table.stdout.splitlines()[1].endswith(", ".join(found))
    assert predict(service, *options[:1], "--alpha", 0).returncode == 1


def test_a_prediction_explains_itself(client: Client) -> None:
    plain = client.predict(pictures.digit_sheet())
    seen = client.predict(pictures.digit_sheet(), explain="seen")
    answer = client.predict(pictures.digit_sheet(), explain="saliency")
    expected = normalize_pixels(pictures.digit_sheet(), ImageSpec("ink", single=True))

    assert plain == seen == answer
    assert plain.view is None
    assert seen.view is not None
    assert answer.view is not None
    assert seen.view.saliency is None
    assert seen.view.steps == answer.view.steps != ()
    np.testing.assert_array_equal(answer.view.seen, expected)
    assert answer.view.saliency is not None
    assert answer.view.saliency.shape == (224, 224, 3)


def test_a_prediction_shows_the_nearest_training_pictures(client: Client) -> None:
    answer = client.predict(pictures.digit_sheet(), explain="nearest", model="digits")

    assert answer.view is not None
    assert answer.view.nearest is not None
    assert [each.image.shape for each in answer.view.nearest] == [(28, 28)] * 3
    assert {each.label for each in answer.view.nearest} <= answer.probabilities.keys()


def test_a_grid_is_drawn(service: RunningService, place: Path, tmp_path: Path) -> None:
    ended = predict(service, place / "bag.png", place / "boot.png", "--grid", tmp_path / "grid.png")

    assert ended.returncode == 0
    assert str(tmp_path / "grid.png") in ended.stderr
    with Image.open(io.BytesIO((tmp_path / "grid.png").read_bytes())) as grid:
        assert grid.format == "PNG"
        assert grid.width > grid.height


def test_wrong_usage_is_reported_in_one_line(
    service: RunningService, place: Path, tmp_path: Path
) -> None:
    nowhere = predict(service, place / "bag.png", "--grid", tmp_path / "none" / "grid.png")
    assert (nowhere.returncode, nowhere.stdout) == (1, "")
    assert nowhere.stderr.startswith("error: file_not_writable: ")
    assert f"{tmp_path}/none/grid.png" in nowhere.stderr
    model = predict(service, place / "bag.png", "--model", "birds")
    assert (model.returncode, model.stdout) == (1, "")
    assert model.stderr.startswith("error: model_not_found: ")
    assert "birds" in model.stderr
