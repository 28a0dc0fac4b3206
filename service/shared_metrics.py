"""Metrics of several processes, which publish them in files of a folder.

The files are those of `prometheus_client`'s multiprocess mode, named after the number of the
process. A process that replaces another one continues its counters.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from prometheus_client import multiprocess
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.samples import Sample

COUNTED = ("counter", "histogram")  # types that grow over the lives of a process
# How gauges of living processes become one; others are added up.
GAUGES: Mapping[str, str] = MappingProxyType(
    {
        "loupe_model_served": "livemax",
        "process_start_time_seconds": "livemin",
        "python_info": "livemax",
    }
)


class SharedMetrics:
    """The metrics of all processes.

    Args:
        folder: The folder of the files.
        number: Number of this process.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._number = number
        self._before = {kind: dict(self._read(kind)) for kind in COUNTED}

    def publish(self, metrics: Iterable[Metric]) -> None:
        """Replace what other processes see of this one."""
        files: defaultdict[str, dict[str, float]] = defaultdict(dict)
        files |= {kind: dict(before) for kind, before in self._before.items()}
        for metric in metrics:
            kind = metric.type
            if kind == "gauge":
                kind = f"gauge_{GAUGES.get(metric.name, 'livesum')}"
            values = files[kind]
            for sample in _separate(metric):
                key = mmap_key(
                    metric.name,
                    sample.name,
                    list(sample.labels),
                    list(sample.labels.values()),
                    metric.documentation,
                )
                values[key] = values.get(key, 0) + sample.value
        for kind, values in files.items():
            self._write(kind, values)

    def collected(self) -> list[Metric]:
        """Return the metrics of all processes together."""
        return list(multiprocess.MultiProcessCollector(None, str(self._folder)).collect())

    def _path(self, kind: str) -> Path:
        return self._folder / f"{kind}_{self._number}.db"

    def _read(self, kind: str) -> Iterator[tuple[str, float]]:
        path = self._path(kind)
        if path.exists():
            for key, value, *_ in MmapedDict.read_all_values_from_file(str(path)):
                yield key, value

    def _write(self, kind: str, values: Mapping[str, float]) -> None:
        path = self._path(kind)
        temporary = path.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        file = MmapedDict(str(temporary))
        for key, value in values.items():
            file.write_value(key, value, 0)
        file.close()
        temporary.replace(path)


def _separate(metric: Metric) -> Iterator[Sample]:
    """Yield the samples of a metric as the files have them: each bucket without those before."""
    if metric.type != "histogram":
        yield from metric.samples
        return
    below = 0.0
    for sample in metric.samples:
        if sample.name.endswith("_bucket"):
            yield sample._replace(value=sample.value - below)
            below = 0.0 if sample.labels["le"] == "+Inf" else sample.value
        elif sample.name.endswith("_sum"):
            yield sample
