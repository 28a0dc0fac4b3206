"""The metrics of several processes as one."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.multiprocess import mark_process_dead

from service.metrics import Histogram, exposed
from service.shared_metrics import SharedMetrics


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[tuple[SharedMetrics, ...]]:
    """Return the metrics of two processes."""
    made = tuple(SharedMetrics(tmp_path, number) for number in (0, 1))
    yield made
    for each in made:
        each.close()


def publish(
    shared: SharedMetrics, requests: int = 0, times: Iterable[float] = (), version: str = "1"
) -> None:
    """Publish what a process has counted; an image is in flight."""
    counter = CounterMetricFamily("loupe_requests", "Requests", labels=["key"])
    counter.add_metric(["me"], requests)
    counted = Histogram([0.1, 1])
    for time in times:
        counted.observe(time)
    histogram = HistogramMetricFamily("loupe_seconds", "Times", labels=["phase"])
    histogram.add_metric(["queue"], counted.buckets, sum_value=counted.sum)
    in_flight = GaugeMetricFamily("loupe_images_in_flight", "Images", labels=["model"])
    in_flight.add_metric(["digits"], 1)
    served = GaugeMetricFamily("loupe_model_served", "Models", labels=["version"])
    served.add_metric([version], 1)
    shared.publish([counter, histogram, in_flight, served])


def lines(shared: SharedMetrics) -> set[str]:
    found = exposed(shared.collected()).decode().splitlines()
    return {line for line in found if not line.startswith("#")}


def test_counters_histograms_and_gauges_add_up(processes: tuple[SharedMetrics, ...]) -> None:
    first, second = processes
    publish(first, 2, [0.05, 0.5])
    publish(first, 3, [0.05, 0.5, 5])
    publish(second, 4, [0.5])

    assert (
        lines(first)
        == lines(second)
        == {
            'loupe_requests_total{key="me"} 7.0',
            'loupe_seconds_bucket{le="0.1",phase="queue"} 1.0',
            'loupe_seconds_bucket{le="1.0",phase="queue"} 3.0',
            'loupe_seconds_bucket{le="+Inf",phase="queue"} 4.0',
            'loupe_seconds_count{phase="queue"} 4.0',
            'loupe_seconds_sum{phase="queue"} 6.05',
            'loupe_images_in_flight{model="digits"} 2.0',
            'loupe_model_served{version="1"} 1.0',
        }
    )


def test_counters_outlive_a_process_and_its_gauges_do_not(
    processes: tuple[SharedMetrics, ...], tmp_path: Path
) -> None:
    first, second = processes
    publish(first, 2, [0.5])
    publish(second, 3, [0.5])
    mark_process_dead(0, tmp_path)

    assert 'loupe_requests_total{key="me"} 5.0' in lines(second)
    assert 'loupe_images_in_flight{model="digits"} 1.0' in lines(second)

    replaced = SharedMetrics(tmp_path, 0)
    publish(replaced, 4, [0.5])
    publish(replaced, 4, [0.5])
    assert 'loupe_requests_total{key="me"} 9.0' in lines(second)
    assert 'loupe_seconds_count{phase="queue"} 3.0' in lines(second)
    assert 'loupe_images_in_flight{model="digits"} 2.0' in lines(second)
    replaced.close()


def test_version_that_no_process_serves_any_more_is_gone(
    processes: tuple[SharedMetrics, ...],
) -> None:
    first, second = processes
    publish(first, version="1")
    publish(second, version="1")
    publish(first, version="2")
    assert {f'loupe_model_served{{version="{number}"}} 1.0' for number in (1, 2)} < lines(first)

    publish(second, version="2")
    assert 'loupe_model_served{version="1"} 1.0' not in lines(first)
