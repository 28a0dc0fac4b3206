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
MODEL_SERVED = "loupe_model_served"
# How gauges of living processes become one; others are added up.
GAUGES: Mapping[str, str] = MappingProxyType(
    {
        MODEL_SERVED: "livemax",
        # Each process knows those of all.
        "loupe_key_images_today": "livemax",
        "loupe_key_limit": "livemax",
        "process_start_time_seconds": "livemin",
        "python_info": "livemax",
    }
)


class SharedMetrics:
    """The metrics of all processes.

    Args:
        folder: The folder of the files.
        number: Number of this process, from 0.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        self._files: dict[str, MmapedDict] = {}  # by kind, the first part of their names
        # Counts of those that had this number before.
        self._before: dict[str, float] = {
            key: value for kind in COUNTED for key, value, _ in self._file(kind).read_all_values()
        }

    def publish(self, metrics: Iterable[Metric]) -> None:
        """Update what other processes see of this one. Gauges that have gone become 0."""
        published: defaultdict[str, dict[str, float]] = defaultdict(dict)
        for metric in metrics:
            kind = metric.type
            if kind == "gauge":
                kind = f"gauge_{GAUGES.get(metric.name, 'livesum')}"
            for name, labels, value, *_ in _separate(metric):
                names, words = list(labels), list(labels.values())
                key = mmap_key(metric.name, name, names, words, metric.documentation)
                published[kind][key] = self._before.get(key, 0) + value
        for kind, values in published.items():
            file = self._file(kind)
            if kind not in COUNTED:
                values |= {key: 0 for key, *_ in file.read_all_values() if key not in values}
            for key, value in values.items():
                file.write_value(key, value, 0)

    def collected(self) -> list[Metric]:
        """Return the metrics of all processes together."""
        metrics = list(multiprocess.MultiProcessCollector(None, str(self.folder)).collect())
        for metric in metrics:
            if metric.name == MODEL_SERVED:  # 1, or gone
                metric.samples = [sample for sample in metric.samples if sample.value]
        return metrics

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _file(self, kind: str) -> MmapedDict:
        if kind not in self._files:
            self._files[kind] = MmapedDict(str(self.folder / f"{kind}_{self.number}.db"))
        return self._files[kind]


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
