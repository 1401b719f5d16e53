"""The paper's Table 5: networks that see clips, by their number of frames.

Its rows are P3D, two branches by themselves, and CMA iter1 on them, and behind them what else was
tested. Networks of one family and depth stand in one table, whatever their clips.
"""

from functools import partial

from twinstream.train.report import paper
from twinstream.train.report.evidence import Evidence
from twinstream.train.report.sources import Variant
from twinstream.train.report.tables import (
    BASELINE,
    CMA,
    SCORES,
    Cell,
    Table,
    beside_paper,
    gaps,
    tops,
    weights_of,
)

TRAIN = (
    "twinstream train -c pipeline.yaml --set model.family={family} --set model.depth={depth} "
    "--set model.clip_length={frames} --set model.kind={kind} --set train.stages=[{stages}]"
    "{more} --out runs/{name}"
)


def has_clips(evidence: Evidence) -> bool:
    """Whether the networks see clips."""
    return any(variant.clip_length for variant in evidence.variants)


def clips_table(evidence: Evidence) -> Table:
    """Table 5: top-1 of RGB, flow and both, a row for each network and length of clips."""
    lengths = {v.clip_length for v in evidence.variants if v.clip_length}
    is_papers = beside_paper(evidence)
    if is_papers:
        lengths |= {frames for *_, frames in paper.CLIPS if frames}
    wanted = [v._replace(clip_length=n) for v in (BASELINE, CMA) for n in sorted(lengths)]
    names = {BASELINE[:2]: evidence.about["family"].upper(), CMA[:2]: "CMA iter1"}
    others = sorted(variant for variant in evidence.variants if variant[:2] not in names)
    rows: list[list[Cell]] = []
    for variant in (*wanted, *others):
        found = (tops(evidence.accuracy(variant, weights_of(variant, s)))[0] for s in SCORES)
        name = names.get(variant[:2], str(variant._replace(clip_length=None)))
        name = f"{name} {variant.clip_length}"
        rows.append([name, *found])
        theirs = paper.CLIPS.get(variant) if is_papers else None
        if theirs:
            rows.append([f"{name}, paper", *theirs.values()])
    note = (
        "Top-1; frames of a clip stand behind the name. Two-stream: scores 1:1 of branches by "
        "themselves, 5:1 of CMA iter1."
    )
    commands = partial(_commands, evidence.about["family"], evidence.about["depth"])
    return Table(
        "table5",
        "Table 5. Clips, by their number of frames",
        ("network", "RGB", "flow", "two-stream"),
        rows,
        note,
        gaps(evidence, wanted, commands),
    )


def _commands(family: str, depth: int, variant: Variant) -> list[str]:
    frames = variant.clip_length
    base, name = f"{family}_{frames}", f"{family}_{frames}" + "_cma" * bool(variant.iteration)
    more = (
        " --set train.trainable=behind_attention"
        f" --set model.rgb_weights=runs/{base}/rgb.safetensors"
        f" --set model.flow_weights=runs/{base}/flow.safetensors"
    )
    text = TRAIN.format(
        family=family,
        depth=depth,
        frames=frames,
        kind="cma" if variant.iteration else "two_stream",
        stages="iter1" if variant.iteration else "flow,rgb",
        more=more if variant.iteration else "",
        name=name,
    )
    return [text, f"twinstream test runs/{name}"]
