"""Settings from the environment, and errors about invalid values."""

import os
from pathlib import Path

import pytest

from loupe.errors import InvalidSetting, InvalidUsage
from loupe.settings import Settings, load_settings, override_settings, traces_wanted


def test_without_variables_everything_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    settings = load_settings()

    assert (settings.engine, settings.port, settings.redis_url, settings.model) == (
        "onnx",
        3000,
        None,
        None,
    )
    assert settings.home == Path("/home/somebody/.loupe")


def test_variables_set_what_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOUPE_DATA_DIR", "/srv/loupe")
    monkeypatch.setenv("LOUPE_MAX_BATCH_SIZE", "64")
    monkeypatch.setenv("LOUPE_LEASE_SECONDS", "0.5")
    settings = load_settings()

    assert (settings.home, settings.max_batch_size, settings.lease_seconds) == (
        Path("/srv/loupe"),
        64,
        0.5,
    )


@pytest.mark.parametrize(
    ("variable", "value", "expectation"),
    [
        ("LOUPE_PORT", "eighty", "Input should be a valid integer"),
        ("LOUPE_PORT", "0", "Input should be greater than or equal to 1"),
        ("LOUPE_PORT", "65536", "Input should be less than or equal to 65535"),
        ("LOUPE_ENGINE", "torch", "Input should be 'onnx', 'openvino' or 'tensorflow'"),
        *[
            (variable, value, "Input should be a finite number")
            for variable in ("LOUPE_FOLLOW_SECONDS", "LOUPE_LEASE_SECONDS", "LOUPE_KEEP_JOBS_DAYS")
            for value in ("inf", "nan")
        ],
        *[
            ("LOUPE_PROCESSES", value, "Input should be auto, or a number from 1 to 1024")
            for value in ("0", "-1", "many", "1025", "1.5")
        ],
        ("LOUPE_THREADS", "0", "Input should be greater than or equal to 1"),
        ("LOUPE_MAX_BATCH_SIZE", "1.5", "Input should be a valid integer"),
        ("LOUPE_REQUEST_TIMEOUT_SECONDS", "0", "Input should be greater than 0"),
        ("LOUPE_REQUEST_TIMEOUT_SECONDS", "60", "Input should be less than or equal to 25"),
        ("LOUPE_LEASE_SECONDS", "-1", "Input should be greater than 0"),
        ("LOUPE_REDIS_URL", "localhost:6379", "Input should be a URL such as redis://host:6379/0"),
        ("LOUPE_JOB_ROOTS", "pictures", "Input should be absolute paths separated by colons"),
        ("LOUPE_JOB_ROOTS", "/srv:pictures", "Input should be absolute paths separated by colons"),
        (
            "LOUPE_CORS_ORIGINS",
            "app.example",
            "Input should be *, or origins such as https://app.example",
        ),
        ("LOUPE_CORS_ORIGINS", "https://app.example/", "Input should be *, or origins"),
        ("LOUPE_CORS_ORIGINS", "https://app.example, *", "Input should be *, or origins"),
        ("LOUPE_CORS_ORIGINS", "https://App.example", "Input should be *, or origins"),
    ],
)
def test_bad_value_is_refused_with_variable_value_and_expectation(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expectation: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSetting) as raised:
        load_settings()

    assert raised.value.message.startswith(f"{variable} has value '{value}': {expectation}")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *[
            ("LOUPE_REDIS_URL", f"{scheme}://:secret@redis:6379/0")
            for scheme in ("redis", "rediss")
        ],
        ("LOUPE_REDIS_URL", "unix:///run/redis.sock"),
        *[
            ("LOUPE_JOB_ROOTS", roots)
            for roots in ("/srv/pictures", "/srv/a b:~/pictures", "/", "/srv:")
        ],
        *[
            ("LOUPE_CORS_ORIGINS", origins)
            for origins in (
                "*",
                "https://a.example, http://localhost:8080",
                "capacitor://app",
                "https://a.example,",
                "null",
            )
        ],
    ],
)
def test_every_valid_form_of_a_value_is_accepted(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    assert getattr(load_settings(), variable.removeprefix("LOUPE_").lower()) == value


def test_error_about_a_url_hides_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOUPE_REDIS_URL", "radis://somebody:a:secret@a@redis:6379")
    with pytest.raises(
        InvalidSetting, match=r"^LOUPE_REDIS_URL has value 'radis://…@redis:6379': "
    ):
        load_settings()


def test_all_bad_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOUPE_PORT", "x")
    monkeypatch.setenv("LOUPE_ENGINE", "y")
    with pytest.raises(
        InvalidSetting, match=r"^LOUPE_ENGINE has value 'y': .*; LOUPE_PORT has value 'x': "
    ):
        load_settings()


def test_a_bad_option_is_wrong_usage_and_named_as_an_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOUPE_PORT", "3001")
    with pytest.raises(InvalidUsage) as raised:
        override_settings(port=70_000)

    assert raised.value.exit_code == 2
    assert raised.value.message.startswith("--port cannot be 70000: ")
    assert load_settings().port == 3001


def test_as_many_processes_as_cores_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setenv("LOUPE_PROCESSES", "auto")

    assert load_settings().processes == 1
    assert override_settings(processes="3").processes == 3


def test_options_replace_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOUPE_PORT", "3001")
    monkeypatch.setenv("LOUPE_HOST", "127.0.0.2")
    settings = override_settings(port=3002, host=None)

    assert (settings.port, settings.host) == (3002, "127.0.0.2")
    assert load_settings() == settings


def test_every_setting_says_how_to_choose_it() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318/v1/metrics"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
                "OTEL_TRACES_EXPORTER": "none",
            },
            False,
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "True"},
            False,
        ),
    ],
)
def test_traces_are_on_if_the_standard_variables_name_an_endpoint(
    variables: dict[str, str], wanted: bool
) -> None:
    assert traces_wanted(variables) is wanted
