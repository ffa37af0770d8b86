"""Draws the life of a message from the one table that decides it.

``python docs/draw_lifecycle.py`` writes ``lifecycle.svg`` and the tables inside ``lifecycle.md``; a build of the
documentation does the same, and ``tests/test_documentation.py`` fails when either is behind the table.

What the table cannot say is written here: where a state stands in the picture, and a sentence for each state, event and
fork.  A row of the table that has no sentence here is an error, so nothing new goes undocumented.
"""

import re
from collections.abc import Mapping
from itertools import groupby
from math import atan2, cos, sin
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from trepid.rules.life import CANCELLED, DEAD, DONE, LEASED, READY, SCHEDULED, State
from trepid.rules.lifecycle import TRANSITIONS, Event

HERE = Path(__file__).resolve().parent
Transitions = Mapping[tuple[State, Event], tuple[State, ...]]

# ------------------------------------------------------------------------------------------------------- sentences

STATES = {
    SCHEDULED: "waits for its due time: a delay, a retry, a snooze, or the comeback after a crash",
    READY: "is due and waits for a worker",
    LEASED: "is in the hands of one worker, until that settles it or falls silent",
    DONE: "the job returned; its result stays readable for `result_ttl`",
    DEAD: "a dead letter: given up, kept with its errors until somebody requeues or purges it",
    CANCELLED: "withdrawn by request; readable for `result_ttl`",
}

EVENTS = {
    Event.DUE: "its due time has come",
    Event.TTL_PASSED: "it was due for longer than its `ttl`, and no worker had started it",
    Event.TAKEN: "a worker leases it",
    Event.EXTENDED: "the worker renews its lease",
    Event.DONE: "the job returned",
    Event.FAILED: "the job raised, or ran into its timeout",
    Event.RETURNED: "the worker gives it back, uncounted: a stop, a snooze, no free thread, an unknown actor",
    Event.BURIED: "given up at once: `Bury`, arguments that do not fit, bytes that are no envelope, poison",
    Event.WITHDRAWN: "the worker has stopped it, as was asked",
    Event.LEASE_EXPIRED: "its lease ran out: the worker is gone, or too late",
    Event.CANCEL: "somebody asks for it to be cancelled",
    Event.REQUEUE: "an operator brings the dead letter back",
}

FORKS = {
    (LEASED, Event.FAILED, SCHEDULED): "retries are left",
    (LEASED, Event.FAILED, DEAD): "none is left",
    (LEASED, Event.FAILED, CANCELLED): "a cancel was asked for",
    (LEASED, Event.RETURNED, READY): "without a delay: it keeps its place",
    (LEASED, Event.RETURNED, SCHEDULED): "with a delay",
    (LEASED, Event.RETURNED, CANCELLED): "a cancel was asked for",
    (LEASED, Event.LEASE_EXPIRED, SCHEDULED): "comes back after 1 s, 2 s, 4 s ... 60 s",
    (LEASED, Event.LEASE_EXPIRED, DEAD): "`max_crashes` is reached",
    (LEASED, Event.LEASE_EXPIRED, CANCELLED): "a cancel was asked for",
}

# --------------------------------------------------------------------------------------------------------- geometry

WIDTH, HEIGHT = 916, 510
BOX_WIDTH, BOX_HEIGHT = 128, 46
LINE = 17

PLACES = {
    SCHEDULED: (160, 70),
    READY: (160, 270),
    DEAD: (160, 470),
    LEASED: (540, 270),
    DONE: (820, 270),
    CANCELLED: (820, 70),
}


class Route(NamedTuple):
    """How an arrow runs: from a point of one box to a point of another, bent towards a third; and where its text is."""

    start: tuple[float, float]
    bend: tuple[float, float]
    end: tuple[float, float]
    text: tuple[float, float]
    anchor: str = "middle"


ROUTES = {
    (SCHEDULED, READY): Route((160, 93), (160, 170), (160, 247), (148, 165), "end"),
    (SCHEDULED, CANCELLED): Route((224, 62), (490, 40), (756, 62), (490, 44)),
    (READY, LEASED): Route((224, 262), (350, 250), (476, 262), (350, 250)),
    (LEASED, READY): Route((476, 280), (350, 300), (224, 280), (350, 308)),
    (READY, DEAD): Route((140, 293), (120, 370), (140, 447), (120, 374), "end"),
    (DEAD, READY): Route((180, 447), (200, 370), (180, 293), (202, 374), "start"),
    (READY, CANCELLED): Route((208, 247), (330, 130), (756, 82), (630, 88)),
    (LEASED, SCHEDULED): Route((500, 247), (400, 140), (224, 80), (418, 207), "end"),
    (LEASED, DEAD): Route((500, 293), (410, 430), (224, 470), (454, 390), "start"),
    (LEASED, CANCELLED): Route((580, 247), (660, 140), (790, 93), (694, 180), "start"),
    (LEASED, DONE): Route((604, 270), (680, 270), (756, 270), (680, 262)),
    (LEASED, LEASED): Route((516, 293), (538, 400), (560, 293), (564, 334), "start"),
}

STYLE = """
.lc { --lc-ink: var(--color-foreground-primary, #1f2328); --lc-faint: var(--color-foreground-muted, #59636e);
  --lc-page: var(--color-background-primary, #ffffff); --lc-good: #1a7f37; --lc-bad: #cf222e; --lc-busy: #0969da;
  font: 14px system-ui, sans-serif; max-width: 100%; height: auto; }
@media (prefers-color-scheme: dark) { .lc { --lc-ink: var(--color-foreground-primary, #f0f6fc);
  --lc-faint: var(--color-foreground-muted, #9198a1); --lc-page: var(--color-background-primary, #0d1117);
  --lc-good: #3fb950; --lc-bad: #f85149; --lc-busy: #4493f8; } }
body[data-theme="light"] .lc { --lc-good: #1a7f37; --lc-bad: #cf222e; --lc-busy: #0969da; }
body[data-theme="dark"] .lc { --lc-good: #3fb950; --lc-bad: #f85149; --lc-busy: #4493f8; }
.lc .move { fill: none; stroke: var(--lc-faint); stroke-width: 1.5; }
.lc text { fill: var(--lc-ink); stroke: var(--lc-page); stroke-width: 5px; paint-order: stroke;
  stroke-linejoin: round; }
.lc rect { fill: var(--lc-page); stroke: var(--lc-ink); stroke-width: 2; }
.lc .done { stroke: var(--lc-good); } .lc .dead { stroke: var(--lc-bad); } .lc .leased { stroke: var(--lc-busy); }
.lc .cancelled { stroke: var(--lc-faint); }
.lc .name { font-weight: 600; stroke: none; } .lc .born, .lc .tip { fill: var(--lc-faint); stroke: none; }
.lc .note { fill: var(--lc-faint); }
""".strip()


def diagram(transitions: Transitions = TRANSITIONS) -> str:
    """Return the picture of the table as SVG."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for (state, event), after in transitions.items():
        for target in after:
            arrows.setdefault((state, target), []).append(event.value)
    parts = [_born(SCHEDULED, "enqueued", "with a delay"), _born(READY, "enqueued")]
    parts += [_arrow(ROUTES[pair], events) for pair, events in arrows.items()]
    parts += [_box(state) for state in State]
    body = "\n".join(parts)
    return (
        f'<svg class="lc" xmlns="http://www.w3.org/2000/svg" viewBox="-16 10 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="States of a message and the events between them">\n<style>\n{STYLE}\n</style>\n'
        f"{body}\n</svg>\n"
    )


def _born(state: State, *lines: str) -> str:
    x, y = PLACES[state][0] - BOX_WIDTH / 2, PLACES[state][1]
    text = _text(x - 12, y + (-12 if len(lines) == 1 else -29), lines, "end", "note")
    line = f'<circle class="born" cx="{x - 50:g}" cy="{y}" r="5"/>\n<path class="move" d="M{x - 45:g} {y} {x:g} {y}"/>'
    return f"{line}\n{_tip((x - 45, y), (x, y))}\n{text}"


def _arrow(route: Route, events: list[str]) -> str:
    (a, b), (c, d), (e, f) = route.start, route.bend, route.end
    x, y = route.text
    top = y - LINE * (len(events) - 1) / 2
    line = f'<path class="move" d="M{a:g} {b:g} Q{c:g} {d:g} {e:g} {f:g}"/>'
    return f"{line}\n{_tip(route.bend, route.end)}\n{_text(x, top, events, route.anchor)}"


def _tip(come: tuple[float, float], at: tuple[float, float]) -> str:
    """Return the head of an arrow that comes from one point and ends at another."""
    turn = atan2(at[1] - come[1], at[0] - come[0])
    sides = [(at[0] - 10 * cos(turn + spread), at[1] - 10 * sin(turn + spread)) for spread in (-0.4, 0.4)]
    return f'<path class="tip" d="M{at[0]:g} {at[1]:g} ' + " ".join(f"{x:.1f} {y:.1f}" for x, y in sides) + 'z"/>'


def _text(x: float, y: float, lines: tuple[str, ...] | list[str], anchor: str, kind: str = "") -> str:
    label = f' class="{kind}"' if kind else ""
    return "\n".join(
        f'<text{label} x="{x:g}" y="{y + LINE * number:g}" text-anchor="{anchor}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )


def _box(state: State) -> str:
    x, y = PLACES[state]
    corner = f'x="{x - BOX_WIDTH / 2:g}" y="{y - BOX_HEIGHT / 2:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}"'
    name = f'<text class="name" x="{x}" y="{y + 5}" text-anchor="middle">{state.value}</text>'
    return f'<rect class="{state.value}" {corner} rx="9"/>\n{name}'


# ----------------------------------------------------------------------------------------------------------- tables


def states_table() -> str:
    """Return the states, each with its sentence, as Markdown."""
    rows = [f"| `{state.name}` | {STATES[state]} |" for state in State]
    return "\n".join(["| State | The message |", "|---|---|", *rows])


def events_table(transitions: Transitions = TRANSITIONS) -> str:
    """Return the table of moves as Markdown, the meaning of each event, and of each fork, beside it."""
    rows = []
    for state, moves in groupby(transitions.items(), key=lambda move: move[0][0]):
        rows += [
            f"| `{state.name}` | {event.value} | {EVENTS[event]} | {_targets(state, event, after)} |"
            for (_, event), after in moves
        ]
    return "\n".join(["| In state | Event | What has happened | The message is then |", "|---|---|---|---|", *rows])


def _targets(state: State, event: Event, after: tuple[State, ...]) -> str:
    if len(after) == 1:
        note = " still" if after[0] is state else ""
        return f"`{after[0].name}`{note}"
    return "; ".join(f"`{target.name}`: {FORKS[state, event, target]}" for target in after)


def filled(page: str, transitions: Transitions = TRANSITIONS) -> str:
    """Return *page* with its marked sections drawn afresh."""
    for name, text in (("states", states_table()), ("events", events_table(transitions))):
        begin, end = f"<!-- drawn: {name} -->", "<!-- end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        page, found = pattern.subn(lambda _, drawn=f"{begin}\n\n{text}\n\n{end}": drawn, page)
        if found != 1:
            raise ValueError(f"the page has {found} sections called {name!r}, not one")
    return page


def drawn(transitions: Transitions = TRANSITIONS) -> dict[Path, str]:
    """Return what should be in the files, by their paths."""
    page = HERE / "lifecycle.md"
    return {
        HERE / "lifecycle.svg": diagram(transitions),
        page: filled(page.read_text(encoding="utf-8"), transitions),
    }


def draw() -> None:
    """Write the files that are behind the table."""
    for path, text in drawn().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    draw()
