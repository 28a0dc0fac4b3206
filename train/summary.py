"""What `loupe train` prints at its end: figures, a verdict, and the next command."""

from loupe.errors import Conflict, ModelNotFound
from loupe.models.comparison import accuracy
from loupe.models.promotion import promote as promote_model
from loupe.models.significance import noise
from loupe.models.store import PRODUCTION, REPORT_FILE, StoredModel, find_model
from loupe.terminal import console, notices, print_sections, styled
from loupe.text import duration
from train.evaluate.evaluation import Evaluation
from train.evaluate.verdict import percent

POOR_RECALL = 0.8  # of a class that the summary names


def print_summary(model: StoredModel, *, promote: bool = False) -> None:
    """Print how good a trained model is and what to do next; promote it if it is better."""
    seconds = model.card.measured.training_seconds or 0
    console.print(f"test accuracy {accuracy(model.card)}, {duration(seconds)}")
    console.print(styled("saved ", (model.tag, "bold")))
    if promote:
        try:
            promote_model(model.tag)
        except Conflict as refusal:
            notices.print(refusal.message, style="yellow")
    status, command = _next(model)
    facts = {
        "verdict": _verdict(Evaluation.load(model.folder)),
        "report": str(model.file(REPORT_FILE) or "none"),
        "status": status,
        "next": command,
    }
    print_sections({"": facts})


def _verdict(evaluation: Evaluation) -> str:
    """Return the verdict of the report, and the class that is recognised worst."""
    verdict = evaluation.verdict
    words = f"{verdict.fit}. {verdict.sentence}" if verdict else "not known"
    recalls = {each.name: each.recall for each in evaluation.classes if each.recall is not None}
    worst = min(recalls, key=lambda name: recalls[name])
    if recalls[worst] < POOR_RECALL:
        words += f" Worst class: {worst}, of which {percent(recalls[worst])} are recognised."
    return words


def _next(model: StoredModel) -> tuple[str, str]:
    """Return how the model stands to the one in production, and the command that is of use now."""
    promotion = f"loupe models promote {model.tag}"
    try:
        current = find_model(f"{model.name}:{PRODUCTION}")
    except ModelNotFound:
        return "not in production", promotion
    if current.tag == model.tag:
        return "in production", "loupe up"
    mine, theirs = model.card.measured, current.card.figures
    if theirs is None or mine.test_digest != theirs.test_digest:
        return f"not comparable with {current.tag}, which is in production", promotion + " --force"
    lead = mine.accuracy - theirs.accuracy
    if lead > noise(mine.accuracy, theirs.accuracy, mine.test_images):
        return f"better than {current.tag}, which is in production", promotion
    words = f"not better beyond noise than {current.tag}, which is in production"
    return words, f"loupe models compare {current.tag} {model.tag}"
