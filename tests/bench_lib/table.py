"""Numbers as text, and Markdown tables."""

OURS = "hm-agent"
# What a row says of a budget.
KEPT, MISSED, UNKNOWN = "yes", "**missed**", "not measured"

MB, KB = 1e6, 1e3


def number(value, unit=1, digits=0, suffix=""):
    return "–" if value is None else f"{value / unit:,.{digits}f}{suffix}"


def megabytes(value):
    return number(value, MB, 2, " MB")


def kilobytes(value):
    return number(value, KB, 1, " KB")


def microseconds(value):
    return number(value, 1e-6, 1, " µs")


def milliseconds(value):
    return number(value, 1e-3, 3, " ms")


def ratio(ours, peers):
    """The peer's value by ours."""
    return peers / ours if ours and peers and ours > 0 else None


def times(value):
    return "" if value is None else f"{value:,.1f}"


def verdict(kept):
    return {True: KEPT, False: MISSED, None: UNKNOWN}[kept]


def at_most(value, limit):
    return None if value is None else value <= limit


def at_least(value, limit):
    return None if value is None else value >= limit


def row(what, budget, ours, peers, factor, kept):
    return what, budget, ours, peers, times(factor), kept


def missing(what, budget, reason):
    """Where a part could not run at all."""
    return what, budget, "–", str(reason), "", UNKNOWN


def print_table(titles, rows, left=1):
    """The first `left` columns are text."""
    print("| " + " | ".join(titles) + " |")
    rules = ["---"] * left + ["---:"] * (len(titles) - left)
    print("| " + " | ".join(rules) + " |")
    for cells in rows:
        print("| " + " | ".join(cells) + " |")
    print()


def print_growth(what, sizes, costs):
    """How much more each cost is at the largest size than at the one before. More than in proportion is a defect; a quarter
    above it is what measuring adds."""
    if len(sizes) < 2:
        return
    step = sizes[-1] / sizes[-2]
    factors = {
        title: values[-1] / values[-2]
        for title, values in costs.items()
        if values[-2] and values[-1]
    }
    texts = [f"{title} {factor:,.1f} ×" for title, factor in factors.items()]
    text = f"From {sizes[-2]:,} to {sizes[-1]:,} {what} ({step:,.1f} ×): {', '.join(texts)}."
    faster = [title for title, factor in factors.items() if factor > 1.25 * step]
    if faster:
        text += f" **More than in proportion: {', '.join(faster)}.**"
    print(text + "\n")
