"""Drawing with the mouse, and what the page then shows."""

from collections.abc import Sequence

from playwright.sync_api import Page, expect

Points = Sequence[tuple[float, float]]  # in hundredths of the paper

SEVEN: Points = [(30, 22), (56, 22), (82, 20), (68, 48), (58, 72), (50, 96)]
ZERO: Points = [(56, 14), (34, 26), (26, 52), (34, 80), (56, 90), (76, 78), (80, 50), (72, 24)]


def draw(page: Page, points: Points, *, lift: bool = True) -> None:
    """Draw one stroke on the paper."""
    for number, (x, y) in enumerate(_on_paper(page, points)):
        page.mouse.move(x, y, steps=4)
        if number == 0:
            page.mouse.down()
    if lift:
        page.mouse.up()


def touch(page: Page, points: Points) -> None:
    """Draw one stroke with a finger."""
    session = page.context.new_cdp_session(page)
    for number, (x, y) in enumerate(_on_paper(page, points)):
        kind = "touchMove" if number else "touchStart"
        touches = [{"x": x, "y": y}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def _on_paper(page: Page, points: Points) -> Points:
    """Return the points in pixels of the window."""
    box = page.locator("#pad").bounding_box()
    assert box
    return [
        (box["x"] + x * box["width"] / 100, box["y"] + y * box["height"] / 100) for x, y in points
    ]


def expect_label(page: Page, label: str, answer: int = 0) -> None:
    """Wait until an answer has a label."""
    expect(page.locator(".answer .label").nth(answer)).to_have_text(label)


def natural_width(page: Page, selector: str) -> int:
    """Wait until an image has loaded; return its width in pixels."""
    page.wait_for_function("s => document.querySelector(s)?.naturalWidth > 0", arg=selector)
    return int(page.evaluate("s => document.querySelector(s).naturalWidth", selector))
