import math

import matplotlib.axes
import pytest
from matplotlib.image import imread

from lightning_transfer.experiments.report.curves import Curve, plot_sizes
from lightning_transfer.experiments.results import Metric

GROWS = Curve(
    "transfer",
    {(256, "128/class"): Metric((0.9, 0.92, 0.94)), (16, "8/class"): Metric((0.5, 0.6, 0.7))},
)
LEVEL = Curve("zero_shot", {None: Metric((0.4,))})


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: the calls of the axes by name."""
    calls = {}
    for name in ("errorbar", "axhline", "axhspan", "set_xticks"):
        real = getattr(matplotlib.axes.Axes, name)

        def spy(axes, *given, name=name, real=real, **options):
            calls.setdefault(name, []).append((given, options))
            return real(axes, *given, **options)

        monkeypatch.setattr(matplotlib.axes.Axes, name, spy)
    return calls


def test_means_and_intervals_stand_over_the_training_rows(drawn, tmp_path):
    plot_sizes([GROWS, LEVEL], tmp_path / "a.png", metric="macro_f1")
    [((rows, means), options)] = drawn["errorbar"]
    assert rows == [16, 256]
    assert means == pytest.approx([0.6, 0.92])
    [below, above] = options["yerr"]
    half = [4.30265 * deviation / math.sqrt(3) for deviation in (0.1, 0.02)]  # Student's t, 2 free
    assert below == pytest.approx(half, abs=1e-5)
    assert above == pytest.approx(half, abs=1e-5)
    assert options["label"] == "transfer"
    [((ticks, names), _)] = drawn["set_xticks"]
    assert dict(zip(ticks, names, strict=True)) == {16: "16\n8/class", 256: "256\n128/class"}
    [((level,), options)] = drawn["axhline"]
    assert (level, options["label"]) == (0.4, "zero_shot")
    assert "axhspan" not in drawn  # one value has no interval
    assert imread(tmp_path / "a.png").shape[1] == 768


def test_one_seed_has_bars_of_no_length(drawn, tmp_path):
    plot_sizes([Curve("target", {(8, "8"): Metric((0.7,))})], tmp_path / "a.png", metric="mcc")
    [(_, options)] = drawn["errorbar"]
    assert options["yerr"] == [[0.0], [0.0]]
    [((_, names), _)] = drawn["set_xticks"]
    assert names == ["8"]


def test_the_interval_of_a_level_is_a_band(drawn, tmp_path):
    plot_sizes([Curve("zero_shot", {None: Metric((1, 3))}), GROWS], tmp_path / "a.png", metric="r")
    [((low, high), _)] = drawn["axhspan"]
    assert (low + high) / 2 == pytest.approx(2)
    assert high - low == pytest.approx(2 * 12.7062, abs=1e-4)


def test_an_undefined_mean_leaves_a_gap(tmp_path):
    curve = Curve("transfer", {(8, "8"): Metric((math.nan,)), (16, "16"): Metric((0.5,))})
    plot_sizes([curve], tmp_path / "a.png", metric="pearson")
    assert (tmp_path / "a.png").stat().st_size
