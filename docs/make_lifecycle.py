"""Draw `explanation/lifecycle.svg`: the states of a job, and the events between them.

    python docs/make_lifecycle.py

The script applies every event of `canfar_batch.lifecycle` to a job in every state. Each arrow below names the changes
that it stands for, and the script stops if a change has no arrow, or if an arrow stands for no change.
"""

import itertools
from datetime import datetime, timezone
from pathlib import Path

from canfar_batch import lifecycle as lc
from canfar_batch.failures import ExitCode, LaunchRefused, Lost
from canfar_batch.records import Attempt, JobRecord, JobState, Phase, Receipt, Resources
from canfar_batch.spec import JobSpec

TARGET = Path(__file__).parent / "explanation" / "lifecycle.svg"
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
SPEC = JobSpec("true", image="skaha/astroml:latest")

P, L, PE, R, W = JobState.PLANNED, JobState.LAUNCHING, JobState.PENDING, JobState.RUNNING, JobState.WAITING
OK, FAILED, LOST, OFF = JobState.SUCCEEDED, JobState.FAILED, JobState.LOST, JobState.CANCELLED


def jobs(state):
    """Yield jobs in *state* with every number of attempts and last failure that matters."""
    ended = state in (W, OK, FAILED, LOST, OFF)
    for attempts, failure in itertools.product((0, 1, 2), (ExitCode(1), Lost(), LaunchRefused())):
        if (attempts == 0) is not (state is P) and not (attempts == 0 and state is OFF):
            continue  # only a job that is planned, or was cancelled before its launch, has no attempt
        made = tuple(
            Attempt(
                number=number,
                launch_name=f"job-{number}",
                resources=Resources(),
                intended_at=NOW,
                succeeded=state is OK if ended or number < attempts else None,
                failure=failure if ended and state is not OK else None,
            )
            for number in range(1, attempts + 1)
        )
        yield JobRecord(key="job", index=0, spec=SPEC, filled=SPEC.fill(), state=state, attempts=made)


def events():
    """Yield one event of each kind, or several if the effect depends on its values."""
    common = {"key": "job", "at": NOW}
    proof = Receipt(exit_code=0)
    values = {
        lc.Intended: [{"launch_name": "job-9", "resources": Resources()}],
        lc.Launched: [{"id": "abcd1234"}],
        lc.Adopted: [{"id": "abcd1234"}],
        lc.Deferred: [{"due": NOW, "why": "busy"}],
        lc.PhaseChanged: [{"phase": Phase.PENDING}, {"phase": Phase.RUNNING}],
        lc.Ended: [{"succeeded": True}, {"succeeded": False, "failure": ExitCode(1)}],
        lc.Retrying: [{"due": NOW, "resources": Resources()}],
        lc.LateSuccess: [{"receipt": proof}],
        lc.NotCollected: [{"why": "no file"}],
        lc.HeldUp: [{"why": "too large"}],
        lc.StopDecided: [{"failure": ExitCode(1)}],
        lc.Respecified: [{"spec": SPEC, "resources": Resources()}],
    }
    for kind in lc.ALLOWED:
        for more in values.get(kind, [{}]):
            yield kind(**common, **more)


def changes():
    """Return every change of state that can happen, as (from, event, to)."""
    found = set()
    for state, event in itertools.product(JobState, tuple(events())):
        if state not in lc.ALLOWED[type(event)]:
            continue
        for job in jobs(state):
            try:
                after = lc.apply(job, event)
            except lc.TransitionError:
                continue
            if after.state is not state:
                found.add((state, type(event).__name__, after.state))
    return found


def arrow(points, label, at, sources, event, targets, anchor="middle", style="main"):
    """Return an arrow through *points* that stands for *event* from each source to each target."""
    stands_for = {(source, event, target) for source in sources for target in targets}
    return {
        "points": points, "label": label, "at": at, "stands_for": stands_for, "anchor": anchor, "style": style,
    }  # fmt: skip


ACTIVE = (L, PE, R)
COLOURS = {"main": "#334", "rare": "#88a", "user": "#36c"}
BOXES = {
    P: (40, 120), L: (220, 120), PE: (400, 120), R: (580, 120), OK: (800, 120),
    W: (400, 270), FAILED: (220, 410), LOST: (400, 410), OFF: (800, 270),
}  # fmt: skip
ARROWS = [
    arrow([(150, 132), (220, 132)], "Intended", (185, 124), [P], "Intended", [L]),
    arrow([(220, 152), (150, 152)], "Deferred", (185, 168), [L], "Deferred", [P], style="rare"),
    arrow([(330, 132), (400, 132)], "Launched", (365, 124), [L], "Launched", [PE]),
    arrow([(330, 152), (400, 152)], "Adopted", (365, 168), [L], "Adopted", [PE], style="rare"),
    arrow([(510, 132), (580, 132)], "PhaseChanged", (545, 124), [PE], "PhaseChanged", [R]),
    arrow([(580, 152), (510, 152)], "PhaseChanged", (545, 168), [R], "PhaseChanged", [PE], style="rare"),
    arrow([(710, 142), (800, 142)], "Ended well", (755, 134), ACTIVE, "Ended", [OK]),
    arrow([(470, 190), (470, 270)], "Ended otherwise", (478, 235), ACTIVE, "Ended", [W], anchor="start"),
    arrow([(400, 280), (290, 280), (290, 164)], "Intended: again", (298, 298), [W], "Intended", [L], anchor="start"),
    arrow([(262, 164), (262, 312), (400, 312)], "Deferred", (256, 250), [L], "Deferred", [W], "end", style="rare"),
    arrow([(430, 270), (430, 164)], "Adopted", (424, 222), [W], "Adopted", [PE], "end", style="rare"),
    arrow([(435, 314), (435, 410)], "RetryExhausted", (443, 372), [W], "RetryExhausted", [LOST], anchor="start"),
    arrow([(405, 314), (300, 410)], "RetryExhausted", (345, 372), [W], "RetryExhausted", [FAILED], anchor="end"),
    arrow([(510, 280), (640, 280), (640, 212), (840, 212), (840, 164)], "LateSuccess", (600, 274), [W], "LateSuccess",
          [OK], style="rare"),
    arrow([(710, 182), (800, 280)], "Cancelled", (738, 236), [*ACTIVE], "Cancelled", [OFF], anchor="end"),
    arrow([(510, 292), (800, 292)], "Cancelled", (730, 286), [W], "Cancelled", [OFF]),
    arrow([(95, 120), (95, 60), (930, 60), (930, 292), (910, 292)], "Cancelled", (500, 52), [P], "Cancelled", [OFF]),
    arrow([(870, 314), (870, 500), (180, 500), (180, 335), (420, 335), (420, 314)], "Reopened, by you", (655, 492),
          [OFF], "Reopened", [W], style="user"),
    arrow([(910, 150), (942, 150), (942, 524), (165, 524), (165, 326), (408, 326), (408, 314)], "Reopened, by rerun()",
          (655, 519), [OK], "Reopened", [W], style="user"),
    arrow([(205, 430), (180, 430)], "Reopened", (174, 422), [FAILED, LOST], "Reopened", [W], "end", style="user"),
    arrow([(800, 304), (770, 304), (770, 352), (70, 352), (70, 164)], "Reopened, if never launched", (655, 345),
          [OFF], "Reopened", [P], style="user"),
    arrow([(510, 432), (855, 432), (855, 164)], "LateSuccess by a late receipt", (655, 424), [FAILED, LOST],
          "LateSuccess", [OK], style="rare"),
    arrow([(885, 270), (885, 164)], "LateSuccess", (880, 240), [OFF], "LateSuccess", [OK], "end", style="rare"),
    arrow([(510, 445), (545, 445), (545, 178), (490, 178), (490, 164)],
          "Adopted", (551, 470), [FAILED, LOST], "Adopted", [PE], "start",
          style="rare"),
]  # fmt: skip


def svg():
    """Return the drawing."""
    drawn = set().union(*(each["stands_for"] for each in ARROWS))
    real = changes()
    if drawn != real:
        raise SystemExit(f"not drawn: {sorted(map(str, real - drawn))}\nnot real: {sorted(map(str, drawn - real))}")
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 540" role="img" font-family="sans-serif">',
        "<title>The states of a job and the events between them</title>",
        "<defs>",
        *(
            f'<marker id="{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0 8 4 0 8z" style="fill:{colour};stroke:none"/></marker>'
            for kind, colour in COLOURS.items()
        ),
        "</defs>",
        "<style>path{fill:none;stroke-width:1.6}.main{stroke:#334}.rare{stroke:#88a;stroke-dasharray:5 4}"
        ".user{stroke:#36c;stroke-dasharray:2 3}text{font-size:12px;fill:#334}.state{font-size:13px;font-weight:600}"
        "</style>",
        '<rect width="960" height="540" rx="10" fill="#fff"/>',
        '<rect x="205" y="95" width="505" height="95" rx="12" fill="#eef2fb" stroke="#c3cfe8"/>',
        '<text x="528" y="110" fill="#667">a container exists, or may exist</text>',
        '<rect x="205" y="395" width="320" height="70" rx="12" fill="#faf0ee" stroke="#e6cdc7"/>',
    ]
    for each in ARROWS:
        line = " ".join(f"{x},{y}" for x, y in each["points"])
        parts.append(f'<path class="{each["style"]}" marker-end="url(#{each["style"]})" d="M{line}"/>')
    for each in ARROWS:
        x, y = each["at"]
        parts.append(
            f'<text x="{x}" y="{y}" text-anchor="{each["anchor"]}" stroke="#fff" stroke-width="3"'
            f' paint-order="stroke">{each["label"]}</text>'
        )
    for state, (x, y) in BOXES.items():
        fill = {OK: "#d9f0df", FAILED: "#f6d5cf", LOST: "#f6d5cf", OFF: "#e6e6ea"}.get(state, "#dfe7f7")
        width = 2.5 if state.final else 1
        parts.append(
            f'<rect x="{x}" y="{y}" width="110" height="44" rx="8" fill="{fill}" stroke="#334" stroke-width="{width}"/>'
            f'<text class="state" x="{x + 55}" y="{y + 27}" text-anchor="middle">{state.name}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def table():
    """Return the changes as sorted lines (event, from, to)."""
    return sorted((type_, source.name, target.name) for source, type_, target in changes())


if __name__ == "__main__":
    TARGET.write_text(svg())
