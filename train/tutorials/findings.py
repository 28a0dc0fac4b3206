"""What is seen in the figures of the classics, in sentences; each is made from the figures it is about."""

from collections.abc import Iterator, Mapping, Sequence

from train.evaluate.verdict import percent
from train.sweep.sweeps import Result as Training
from train.sweep.sweeps import Spread, Sweep, Value, as_text
from train.tutorials.plan import Classic, Factor, Plan, Trial
from train.tutorials.results import Figures, Result, Summary, missed, summarize

FAR = 2.0  # standard deviations; a single run that is further from a mean is hardly chance


def findings(plan: Plan, figures: Figures) -> Iterator[str]:
    """What the figures say, in sentences."""
    results = figures.trials
    done = [summarize(row, results) is not None for row in plan.rows()]
    if plan.sweep:
        done.append(len(figures.study) == len(plan.sweep.settings()) * plan.sweep.seeds)
    if not all(done):
        yield f"{done.count(False)} of {len(done)} rows are not trained yet."
    if not plan.quick:
        yield from _aims(plan, results)
    known = {classic.key: summarize(plan.of_classic(classic), results) for classic in plan.classics}
    for classic in plan.classics:
        summary = known[classic.key]
        if summary is None:
            continue
        yield from _about(classic, summary)
        for other in plan.classics:
            rival = known[other.key]
            if other.key in classic.beats and rival:
                yield _compared(classic, summary, other, rival)
    yield from _about_study(plan, figures.study)


def shown(plan: Plan, results: Mapping[Trial, Result]) -> list[Classic]:
    """The classics of the table; those that were only for a missed aim, if it was missed."""
    return [
        classic
        for classic in plan.classics
        if not classic.if_missed or missed(plan, classic.if_missed, results)
    ]


def _aims(plan: Plan, results: Mapping[Trial, Result]) -> Iterator[str]:
    """Which models are as good as they should be, and which are not, by how much."""
    known = [
        (classic, summarize(plan.of_classic(classic), results)) for classic in shown(plan, results)
    ]
    judged = [(classic, summary) for classic, summary in known if summary]
    reached = sum(summary.accuracy >= classic.aim for classic, summary in judged)
    if judged:
        yield f"{reached} of {len(judged)} models reach the test accuracy that was aimed at."
    for classic, summary in judged:
        if summary.accuracy < classic.aim:
            yield (
                f"Below its aim: {classic.tutorial}, {classic.model}, with {percent(summary.accuracy, 2)} "
                f"where {percent(classic.aim, 2)} was aimed at."
            )


def _about(classic: Classic, summary: Summary) -> Iterator[str]:
    name = f"{classic.tutorial}, {classic.model}"
    speed = summary.first.speed
    if speed:
        same = (
            "the same classes"
            if not speed.differing
            else f"other classes for {speed.differing} images"
        )
        yield (
            f"{name}: asked image by image and in batches of {speed.batch_size}, it gives {same} for {speed.images:,} images. "
            f"An image takes {_microseconds(speed.alone_seconds, speed.images)} alone and "
            f"{_microseconds(speed.batched_seconds, speed.images)} in a batch: {speed.gain:.0f} times less."
        )
    if summary.first.fit != "well fitted":
        seed = "" if summary.spread is None else ", with its first seed"
        yield f"{name}{seed}: {summary.first.fit}. {summary.first.verdict}"


def _compared(classic: Classic, summary: Summary, other: Classic, rival: Summary) -> str:
    better = "better than" if summary.accuracy > rival.accuracy else "no better than"
    losses = f"test loss {summary.loss:.3f} against {rival.loss:.3f}"
    return (
        f"{classic.tutorial}, {classic.model}: with {percent(summary.accuracy, 2)} it is {better} {other.model} "
        f"with {percent(rival.accuracy, 2)}; {losses}."
    )


def _about_study(plan: Plan, study: Sequence[Training]) -> Iterator[str]:
    """How a tutorial's single runs stand to many."""
    sweep = plan.sweep
    if plan.study is None or sweep is None or not study:
        return
    letter = plan.study.tutorial
    failed = [training for training in study if training.scores is None]
    if failed:
        yield f"{letter}: {len(failed)} of {len(study)} trainings failed; the first: {failed[0].error}"
    spreads = []
    for factor in plan.study.factors:
        for value, reported in factor.reported:
            accuracies = accuracies_of(sweep, factor, value, study)
            if len(accuracies) > 1:
                spreads.append(
                    (
                        Spread.of(accuracies),
                        f"{factor.name} {as_text(factor.setting, value)}",
                        reported,
                    )
                )
    if spreads:
        near = sum(
            abs(reported - spread.mean) <= FAR * spread.deviation for spread, _, reported in spreads
        )
        yield f"{letter}: {near} of the tutorial's {len(spreads)} single runs are within {FAR:g} spreads of our mean: chance explains them."
        best, name, _ = max(spreads, key=lambda spread: spread[0].mean)
        widest, uncertain, _ = max(spreads, key=lambda spread: spread[0].deviation)
        yield f"{letter}: the best of its values is {name}, with {percent(best.mean, 2)} ± {best.deviation * 100:.2f}."
        yield f"{letter}: chance counts most for {uncertain}: {percent(widest.mean, 2)} ± {widest.deviation * 100:.2f}."


def accuracies_of(
    sweep: Sweep, factor: Factor, value: Value, study: Sequence[Training]
) -> list[float]:
    """Test accuracies, 0..1, of the base with one other value, over the seeds; none before every seed is done."""
    setting = sweep.setting({factor.setting: value})
    trainings = [training for training in study if training.setting == setting]
    if len(trainings) < sweep.seeds:
        return []
    return [training.scores.test_accuracy for training in trainings if training.scores]


def _microseconds(duration: float, images: int) -> str:
    each = duration / images * 1e6
    return f"{each:,.0f} µs" if each >= 10 else f"{each:.1f} µs"
