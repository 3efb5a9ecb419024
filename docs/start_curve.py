"""Draw `start.svg` from `start.csv`: what phantoms to start from are worth on real radiographs.

python docs/start_curve.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

HERE = Path(__file__).parent


def main() -> None:
    """Each training a point; the lines are means over the seeds that all starts have."""
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "start"}
    table = pd.read_csv(HERE / "start.csv")
    starts = table.groupby("seed")["map"].transform("size")
    shared = table[starts == starts.max()]
    sns.set_theme(style="whitegrid")
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    sns.lineplot(shared, x="phantoms", y="map", hue="drawn", marker="o", errorbar=None, ax=axes)
    sns.scatterplot(table, x="phantoms", y="map", hue="drawn", alpha=0.4, legend=False, ax=axes)
    axes.set(
        xlabel="phantoms that the start was learnt from",
        ylabel="mAP@0.4, 14 findings",
        title="Real radiographs out of fold, 12,000 images of training; each point one training",
    )
    axes.title.set_fontsize(9)
    axes.legend(title=None, loc="upper center")
    figure.savefig(HERE / "start.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
