"""The planner's picture: the pipeline as simulated, and the same batch on more and more devices. Needs matplotlib."""

from pathlib import Path

from openglm.files import replacing
from openglm.plan.devices import TERA
from openglm.plan.planner import Plan, describe
from openglm.plan.schedule import idle_share, simulate

KINDS = {"F": ("forward", "#4c78a8"), "B": ("backward", "#f58518"), "W": ("gradient of weights", "#54a24b")}


def draw_schedule(axis, plan: Plan) -> None:
    """The first micro-batches of a plan's pipeline; a longer run only repeats the middle."""
    layout = plan.layout
    micros = min(layout.micro_batches(plan.job), 2 * layout.pipeline if layout.pipeline > 1 else 4)
    backward = 3.0 if layout.recompute == "full" else 2.0
    spans = simulate(layout.schedule, layout.pipeline, micros, layout.chunks, backward=backward)
    for span in spans:
        shade = 1 - 0.5 * span.work.chunk / layout.chunks
        axis.barh(
            span.stage,
            span.end - span.start,
            left=span.start,
            height=0.9,
            color=KINDS[span.work.kind][1],
            alpha=shade,
            edgecolor="white",
            linewidth=0.3,
        )
        if layout.pipeline * micros * layout.chunks <= 160:
            axis.text(
                (span.start + span.end) / 2,
                span.stage,
                str(span.work.micro),
                ha="center",
                va="center",
                fontsize=6,
                color="white",
            )
    shown = {span.work.kind for span in spans}
    for kind in sorted(shown):
        axis.barh([0], [0], color=KINDS[kind][1], label=KINDS[kind][0])
    axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
    axis.invert_yaxis()
    idle = f"{100 * idle_share(spans):.1f} % idle here, {100 * plan.bubble:.1f} % in the whole step"
    title = f"{layout.schedule}: {micros} of {layout.micro_batches(plan.job)} micro-batches shown, {idle}"
    axis.set(title=title, xlabel="time, in forward passes of a stage", ylabel="pipeline stage")


def draw_scaling(axis, plan: Plan, plans: list[Plan]) -> None:
    """Tokens a second of the best plans of one batch, against a straight line through the first."""
    if not plans:
        axis.set(title="no number of devices fits this batch")
        return
    counts, rates = [p.job.devices for p in plans], [p.tokens_per_second for p in plans]
    axis.loglog(counts, rates, "o-", color="#4c78a8", label="best layout of each size")
    axis.loglog(counts, [rates[0] * count / counts[0] for count in counts], ":", color="#999999", label="in proportion")
    for p in plans:
        text = f"{100 * p.model_rate / p.job.device.peak:.0f} %"
        axis.annotate(
            text, (p.job.devices, p.tokens_per_second), textcoords="offset points", xytext=(4, -11), fontsize=7
        )
    axis.set(
        title=f"{plan.job.batch} rows of {plan.job.seq} tokens on {plan.job.device.name} (share of peak in model FLOPs)",
        xlabel="devices",
        ylabel="tokens/s",
    )
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def draw(path: str | Path, plan: Plan, plans: list[Plan]) -> None:
    """Write the picture beside its place and give it its name."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    path = Path(path)
    figure, (left, right) = plt.subplots(1, 2, figsize=(15, 5))
    draw_schedule(left, plan)
    draw_scaling(right, plan, plans)
    rate = f"{plan.seconds['total']:.2f} s a step, {plan.model_rate / TERA:.0f} model TFLOP/s a device"
    figure.suptitle(f"{describe(plan.layout)}: {rate}", fontsize=10)
    figure.tight_layout()
    try:
        with replacing(path) as beside:
            figure.savefig(beside, dpi=110, format="png")
    finally:
        plt.close(figure)
