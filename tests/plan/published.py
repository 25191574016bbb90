"""What real systems reach with DeepSeek-V3 and R1, and the roofline at the same work.

`python tests/plan/published.py` prints the table of docs/plan.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from models import DEEPSEEK_V3, demand, machine

from porter.plan.roofline import Phase
from porter.plan.search import Ask, Found, search
from porter.plan.split import Split, Work

DEEPSEEK = (
    "DeepSeek-V3/R1 Inference System Overview (open-infra-index, day 6), by aiposthub.cc/5152 and aigc.openbot.ai"
)
CLOUDMATRIX = "arXiv 2506.12708, abstract"
RECIPES = "hicann/cann-recipes-infer, docs/models/deepseek-r1/deepseek_r1_{}_optimization.md"
SILICONFLOW = "press, with SiliconFlow: app.myzaker.com 6946a6b38e9f09606a5e983c"


WORK = Work(4096, 4096)


@dataclass(frozen=True)
class Published:
    """A figure: tokens per second of a `unit` of so many cards, at this work.

    `sequences` are those that a unit decodes at once. Where nobody says, they follow from the figure itself: tokens per
    second times the time of a token (`milliseconds`). What is assumed beyond the source stands in `assumed`.
    """

    name: str
    device: str
    unit: int
    unit_name: str
    phase: Phase
    measured: float
    source: str
    assumed: str
    cards: int
    split: Split | None = None
    work: Work = WORK
    milliseconds: float | None = None
    sequences: float | None = None
    cache: str = "auto"
    leaves_out: str = ""  # said where the roofline is above three times the figure

    @property
    def batch(self) -> int | None:
        """Sequences of all cards together."""
        own = self.sequences or (self.measured * self.milliseconds / 1e3 if self.milliseconds else None)
        return None if own is None else round(own * self.cards / self.unit)

    def found(self) -> Found:
        """The roofline's answer."""
        card = machine(self.device, DEEPSEEK_V3, cache=self.cache)
        best = search(
            demand(DEEPSEEK_V3), card, self.cards, Ask(self.work, self.batch, None, self.phase), self.split
        ).best
        assert best is not None, f"{self.name} does not fit"
        return best

    def roofline(self) -> float:
        """Tokens per second of a unit, at most."""
        return self.found().reached / self.cards * self.unit

    def in_turn(self) -> float:
        """Tokens per second of a unit when nothing works beside anything else: no bound, and often nearer."""
        found = self.found()
        prefill = self.phase == "prefill"
        rate = found.prefill_rate(found.prefill.in_turn) if prefill else found.decode_rate(found.decode.in_turn)
        return rate / self.cards * self.unit


FIGURES = (
    Published(
        name="DeepSeek, 4 nodes",
        device="nvidia-h800",
        unit=8,
        unit_name="node",
        phase="prefill",
        measured=73_700,
        source=DEEPSEEK,
        assumed="prompts of 4,096 tokens",
        cards=32,
        split=Split(1, 32, 1),
        work=Work(4096, 4096, cached=0.563),
        leaves_out="a day's mean, nights and waiting included; FP8 matrices that reach well below their rate; experts "
        "that are not as likely as each other; reading what was cached from disk",
    ),
    Published(
        name="DeepSeek, 18 nodes",
        device="nvidia-h800",
        unit=8,
        unit_name="node",
        phase="decode",
        measured=14_800,
        source=DEEPSEEK + "; 20 to 22 tokens per second and user, 4,989 in the cache",
        assumed="22 tokens per second and user, so 673 sequences of a node; a cache in bfloat16",
        cards=144,
        split=Split(1, 144, 1),
        work=Work(4989, 4096),
        milliseconds=1000 / 22,
    ),
    Published(
        name="CloudMatrix384",
        device="ascend-910c",
        unit=2,
        unit_name="package",
        phase="prefill",
        measured=6_688,
        source=CLOUDMATRIX,
        assumed="16 packages, the best split, prompts of 4,096 tokens",
        cards=32,
    ),
    Published(
        name="CloudMatrix384, below 50 ms",
        device="ascend-910c",
        unit=2,
        unit_name="package",
        phase="decode",
        measured=1_943,
        source=CLOUDMATRIX + ": EP320",
        assumed="4,096 tokens in the cache; 97 sequences of a package, which 50 ms make of the figure",
        cards=320,
        split=Split(1, 320, 1),
        milliseconds=50,
    ),
    Published(
        name="CloudMatrix384, at 15 ms",
        device="ascend-910c",
        unit=2,
        unit_name="package",
        phase="decode",
        measured=538,
        source=CLOUDMATRIX + ": EP320",
        assumed="4,096 tokens in the cache; 8 sequences of a package, which 15 ms make of the figure",
        cards=320,
        split=Split(1, 320, 1),
        milliseconds=15,
    ),
    Published(
        name="Atlas A3, 16 packages",
        device="ascend-910c",
        unit=2,
        unit_name="package",
        phase="prefill",
        measured=6_522,
        source=RECIPES.format("prefill") + ": 64 prompts of 4K, DP32 and EP32, micro-batches",
        assumed="nothing",
        cards=32,
        split=Split(1, 32, 1),
    ),
    Published(
        name="Atlas A3, 64 packages, W8A8C8",
        device="ascend-910c",
        unit=2,
        unit_name="package",
        phase="decode",
        measured=2_138,
        source=RECIPES.format("decode") + ": 6,144 sequences of 4,096, 44.9 ms, 1.7 tokens a step",
        assumed="nothing",
        cards=128,
        split=Split(1, 128, 1),
        work=Work(4096, 4096, accepted=1.7),
        sequences=96,
        cache="int8",
    ),
    Published(
        name="MTT S5000",
        device="moore-threads-s5000",
        unit=1,
        unit_name="card",
        phase="prefill",
        measured=4_000,
        source=SILICONFLOW + ": above 4,000",
        assumed="32 cards, the best split, prompts of 4,096 tokens",
        cards=32,
        leaves_out="the rate in bfloat16, that of the links between nodes and every latency are not published; nor are "
        "the number of cards and the length of prompts of the figure, which is a lower bound itself",
    ),
    Published(
        name="MTT S5000",
        device="moore-threads-s5000",
        unit=1,
        unit_name="card",
        phase="decode",
        measured=1_000,
        source=SILICONFLOW + ": above 1,000",
        assumed="32 cards, the best split, 4,096 tokens in the cache, as many sequences as fit",
        cards=32,
    ),
)


def row(figure: Published) -> str:
    """One line of the table in docs/plan.md."""
    found, roofline = figure.found(), figure.roofline()
    step = found.decode if figure.phase == "decode" else found.prefill
    split = "/".join(str(n) for n in (found.split.tp, found.split.ep, found.split.pp))
    cells = [
        figure.name,
        figure.device,
        figure.phase,
        f"{figure.measured:,.0f} / {figure.unit_name}",
        f"{roofline:,.0f}",
        f"{roofline / figure.measured:.2f}",
        f"{figure.in_turn() / figure.measured:.2f}",
        step.bound,
        split,
        figure.assumed,
        figure.source,
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print("\n".join(map(row, FIGURES)))
