"""Pictures: known numbers in, what is drawn and written out."""

import doctest
import itertools

import numpy as np
import pytest
from matplotlib import colors
from matplotlib.text import Text
from report_cases import run, text_of

from experiments import labels, picture, style
from experiments.report import (
    beside,
    cases,
    costs,
    course,
    figures,
    page,
    sections,
    splits,
)


@pytest.fixture(autouse=True)
def _drawing():
    with style.drawing():
        yield


def _curves(count):
    names = list(style.LOOKS)[:count]
    return [
        picture.Curve(
            name, run(sent=10.0 ** (i + 6)).rows, style.LOOKS[name].name
        )
        for i, name in enumerate(names)
    ]


def _boxes(figure, texts):
    """Where these texts are, in pixels."""
    figure.draw_without_rendering()
    found = figure.findobj(Text)
    return [
        artist.get_window_extent()
        for artist in found
        if artist.get_text() in texts
    ]


def _apart(boxes):
    return not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_accuracy_against_bytes_has_the_points_and_the_names():
    figure = picture.accuracy(_curves(3), 0.95, "A title")
    (axes,) = figure.axes
    first = axes.lines[0].get_xydata()
    np.testing.assert_allclose(first, [[25e4, 0.5], [5e5, 0.8], [1e6, 0.96]])
    assert axes.get_xscale() == "log" and "sent" in axes.get_xlabel()
    written = text_of(figure)
    names = {"Synchronous", "LinearFDA", "SketchFDA"}
    assert names | {"target 0.95", "A title", "test accuracy"} <= set(written)
    assert any(text.endswith(" MB") for text in written)
    assert not figure.legends
    assert _apart(_boxes(figure, names | {"target 0.95"}))


def test_accuracy_against_steps():
    (axes,) = picture.accuracy(_curves(2), 0.95, "", "steps").axes
    assert axes.lines[0].get_xdata().tolist() == [10, 20, 30]
    assert axes.get_xscale() == "linear"
    assert axes.get_xlabel() == "in-parallel steps"


def test_many_curves_have_a_legend_in_the_order_of_bytes():
    figure = picture.accuracy(_curves(7)[::-1], 0.95, "")
    (legend,) = figure.legends
    written = [text.get_text() for text in legend.get_texts()]
    assert written == [look.name for look in style.LOOKS.values()][:7]


def test_a_curve_begins_with_the_first_models_sent():
    rows = run().rows
    rows[0] |= {"syncs": 0.0, "paper_model_bytes": 0, "paper_state_bytes": 8}
    assert len(picture.Curve("linear", rows).points()) == 2
    for row in rows[1:]:
        row |= {"syncs": 0.0}
    assert len(picture.Curve("linear", rows).points()) == 3


def test_clouds_have_their_geometric_means():
    points = np.array([[100, 1e6], [400, 4e6], [200, 2e6]])
    far = np.array([[100.0, 1e9]])
    figure = costs.clouds({"linear": points, "synchronous": far}, "Cost")
    (axes,) = figure.axes
    centres = [line.get_xydata()[0] for line in axes.lines]
    np.testing.assert_allclose(centres, [[200, 2e6], [100, 1e9]])
    names = {"LinearFDA\n3 runs", "Synchronous\n1 run"}
    assert names <= set(text_of(figure))
    assert _apart(_boxes(figure, names))
    drawn = [found.get_offsets() for found in axes.collections]
    assert any(np.array_equal(found, points) for found in drawn)


def test_costs_against_theta():
    cost = np.array([[4e6, 3e6, 5e6], [1e6, 1e6, 1e6]])
    level = np.array([[9e8, 9e8, 9e8]])
    lines = [
        costs.Line("linear", "LinearFDA", [1, 10], cost),
        costs.Line("sketch", "SketchFDA", [1, 10], cost, 1),
        costs.Line("synchronous", "Synchronous", [np.nan], level),
    ]
    figure = costs.against(lines, "theta", "sent", "Bytes")
    (axes,) = figure.axes
    assert axes.lines[0].get_ydata().tolist() == [4e6, 1e6]
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [1, 10], rtol=0.1)
    assert axes.get_xticks().tolist() == [1, 10]
    # Both end in the same point: their names are moved apart.
    assert _apart(_boxes(figure, {"LinearFDA", "SketchFDA", "Synchronous"}))


def test_labels_are_a_gap_apart_and_keep_their_order():
    random = np.random.default_rng(3)
    for _ in range(20):
        values = random.normal(0, 2, 9)
        placed = labels.spread(values, 1.0)
        assert np.diff(np.sort(placed)).min() >= 1 - 1e-9
        assert np.argsort(placed).tolist() == np.argsort(values).tolist()
        assert placed.mean() == pytest.approx(values.mean())


@pytest.mark.parametrize(
    "values, wanted",
    [
        ([3e6, 9e8], ["5 MB", "10 MB", "500 MB"]),
        ([2e3, 9e12], ["10 kB", "1 TB"]),
        ([1900, 3500], ["2,000", "2,500", "3,000"]),
    ],
)
def test_log_axes_have_round_ticks_in_si_units(values, wanted):
    axes = style.figure().add_subplot()
    unit = "" if "," in wanted[0] else "B"
    style.log_axis(axes.yaxis, values, unit)
    low, high = axes.get_ylim()
    assert low < min(values) and max(values) < high
    ticks = axes.yaxis.get_major_locator().tick_values(low, high)
    written = axes.yaxis.get_major_formatter().format_ticks(ticks)
    assert set(wanted) <= set(written)


def test_course_has_variance_theta_and_a_tick_per_synchronisation():
    variance = np.array([0.5, np.nan, 1.5, 0.25], np.float32)
    theta = np.full(4, 1.0, np.float32)
    figure = course.course(
        [
            course.Course("linear", "Θ = 1", variance, theta, [3]),
            course.Course("max", "Θ = 1", variance, theta, [1, 3]),
        ],
        "Over its steps",
    )
    one, other = figure.axes
    assert one.lines[0].get_xydata().tolist() == [[1, 0.5], [3, 1.5], [4, 0.25]]
    assert one.lines[1].get_ydata().tolist() == [1.0] * 4
    assert one.lines[2].get_xdata() == [3]
    assert one.get_title(loc="left") == "Θ = 1: 1 synchronisation"
    assert other.get_title(loc="left") == "Θ = 1: 2 synchronisations"
    assert other.get_ylabel() == "share above Θ" and len(other.lines) == 2


def test_ours_beside_theirs():
    pairs = [
        beside.Pair("linear", "LinearFDA, K = 5", {"steps": [80, 90, 120]},
                    {"steps": 100}),
    ]  # fmt: skip
    assert pairs[0].ratios("steps").tolist() == [0.9, 0.8, 1.2]
    (axes,) = beside.beside(pairs, "").axes
    assert axes.lines[1].get_xdata().tolist() == [0.8, 1.2]
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        "LinearFDA, K = 5"
    ]
    table = sections.published_table(pairs)
    assert table.rows == [
        ["LinearFDA, K = 5", "3", "100", "90\n80 to 120", "0.90"]
    ]


def test_split_is_a_heat_map_with_the_numbers():
    each = np.array([0, 0, 1, 2, 2, 2])
    table = splits.counts(each, [np.array([0, 2]), np.array([1, 3, 4, 5])])
    assert table.tolist() == [[1, 1, 0], [1, 0, 3]]
    figure = splits.heat(table, "set, iid")
    cells, sizes = figure.axes
    assert cells.images[0].get_array().tolist() == table.tolist()
    assert sorted(t.get_text() for t in cells.texts) == ["1", "1", "1", "3"]
    assert [bar.get_width() for bar in sizes.patches] == [2, 4]
    assert (cells.get_xlabel(), cells.get_ylabel()) == ("label", "worker")


def test_large_split_has_a_scale_in_place_of_numbers():
    figure = splits.heat(np.ones((60, 62), int), "set, iid")
    cells, _, scale = figure.axes
    assert not cells.texts and scale.get_xlabel() == "samples"


def test_looks_differ_by_marker_and_the_first_seven_by_colour():
    looks = list(style.LOOKS.values())
    assert len({look.marker for look in looks}) == len(looks)
    assert len({look.colour for look in looks[:7]}) == 7
    assert {look.colour for look in looks} <= set(style.DARK)


@pytest.mark.parametrize("paper", [0, 1])
def test_colours_stand_out_on_light_and_on_dark(paper):
    def luminance(colour):
        rgb = np.array(colors.to_rgb(colour))
        linear = np.where(
            rgb < 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4
        )
        return linear @ (0.2126, 0.7152, 0.0722)

    def contrast(colour):
        pair = luminance(colour), luminance(page_colour)
        return (max(pair) + 0.05) / (min(pair) + 0.05)

    page_colour = [style.PAPER, style.DARK[style.PAPER]][paper]
    for look in style.LOOKS.values():
        assert contrast([look.colour, style.DARK[look.colour]][paper]) > 2
    for text in (style.INK, style.MUTED):  # WCAG AA
        assert contrast([text, style.DARK[text]][paper]) > 4.5


# --- Cases and the table


def _experiment(*runs):
    (found,) = cases.experiments(runs)
    return found


def test_seeds_are_one_case_and_their_median_counts():
    found = _experiment(
        *(run(sent=s * 1e6, seed=i) for i, s in enumerate([9, 1, 2])),
        run(sent=99e6, seed=3, reached=False),
    )
    (case,) = found
    assert case.text == "LinearFDA, Θ = 3" and len(case.runs) == 4
    assert case.median("bytes_to_target") == 2e6
    row = sections.runs_table(found).rows[0]
    assert row[:3] == ["LinearFDA\nΘ = 3", "5", "3 of 4"]
    assert row[6] == "2 MB\n1 MB to 9 MB"


def test_times_fewer_than_each_rival():
    found = _experiment(
        run(sent=2e6), run("synchronous", 100e6), run("fedadam", 12e6),
        run("fedavgm", 9e6, reached=False),
        run("local_sgd", 20e6, interval=5), run("local_sgd", 10e6, interval=20),
        run("synchronous", 300e6, workers=10),
    )  # fmt: skip
    table = sections.runs_table(found)
    assert [c.partition("\n")[2] for c in table.columns[-3:]] == [
        "Synchronous", "FedAdam", "Local SGD",
    ]  # fmt: skip
    by_name = {row[0]: row[-3:] for row in table.rows if row[1] == "5"}
    # Of two intervals, the one that sent least is the rival.
    assert by_name["LinearFDA\nΘ = 3"] == ["50×\n", "6×\n", "5×\nH = 20"]
    lead = sections.lead(found)
    assert "50 times fewer bytes than synchronous training" in lead
    assert "took 1.00 times its steps (one seed)" in lead


def test_cases_that_differ_otherwise_say_how():
    found = _experiment(run(learning_rate=0.1), run(learning_rate=0.2))
    assert [case.text for case in found] == [
        "LinearFDA, Θ = 3, learning rate 0.1",
        "LinearFDA, Θ = 3, learning rate 0.2",
    ]


def test_what_cannot_be_compared_is_another_experiment():
    runs = [run(), run(split="label:0"), run(batch_size=8), run(steps=9)]
    assert sorted(map(len, cases.experiments(runs))) == [1, 1, 2]


def _names(runs, theirs=()):
    found = figures.draw(_experiment(*runs), dict(theirs))
    return [name for name, _, _ in found]


def test_what_is_drawn_depends_on_what_is_known():
    grid = [
        run(name, theta=theta, workers=k, sent=k * 1e6 / theta)
        for name in ("linear", "sketch")
        for theta in (1, 3)
        for k in (2, 5)
    ]
    rivals = [run("synchronous", 9e8, workers=k) for k in (2, 5)]
    costs_only = [
        "clouds", "bytes-theta", "steps-theta", "bytes-workers",
        "steps-workers",
    ]  # fmt: skip
    assert _names(grid + rivals) == [
        "accuracy-bytes-K2", "accuracy-bytes-K5",
        "accuracy-steps-K2", "accuracy-steps-K5",
        *costs_only,
        "course-linear-K2", "course-sketch-K2",
        "course-linear-K5", "course-sketch-K5",
    ]  # fmt: skip
    for one in grid + rivals:
        empty = {"rows": (), "variance": np.empty(0), "theta": np.empty(0)}
        vars(one).update(empty)
    assert _names(grid + rivals) == costs_only
    assert _names(rivals[:1]) == []


def test_thetas_that_have_no_logarithm_are_left_out():
    runs = [run(theta=theta) for theta in (0, 1, 2, float("inf"))]
    found = figures.draw(_experiment(*runs, run("synchronous")), {})
    drawn = {name: figure for name, _, figure in found}
    (axes,) = drawn["bytes-theta"].axes
    assert axes.get_xticks().tolist() == [1, 2]
    # Two settings of one theta are two lines, not one that goes back.
    pairs = [(r, t) for r in (0.1, 0.2) for t in (1, 2)]
    runs = [run(learning_rate=r, theta=t) for r, t in pairs]
    found = figures.draw(_experiment(*runs), {})
    drawn = {name: figure for name, _, figure in found}
    written = text_of(drawn["bytes-theta"])
    assert "LinearFDA, learning rate 0.1, K = 5" in written
    assert "LinearFDA, learning rate 0.2, K = 5" in written


def test_only_what_the_authors_did_alike_is_beside_theirs():
    ours = [run(task="lenet5_mnist", theta=1.5, sent=1e6)]
    key = ("lenet5_mnist", "iid", 5, "linear", 1.5, 0.98)
    theirs = {key: (60, 6)}
    (pair,) = figures.compared(_experiment(*ours), theirs)
    assert pair.ratios("steps").tolist() == [0.5] * 3
    assert pair.ratios("synchronisations").tolist() == [0.5] * 3
    assert "published-K5" in _names(ours, theirs)
    ours = [run(task="lenet5_mnist", theta=1.5, batch_size=8)]
    assert not figures.compared(_experiment(*ours), theirs)


# --- The page


def test_pictures_in_a_page_follow_its_colours_and_keep_their_ids_apart():
    figure = picture.accuracy(_curves(2), 0.95, "")
    text = page.inline(page.svg(figure), "name")
    assert "http" not in text and "xmlns" not in text and "#0072b2" in text
    assert "var(--c0072b2, #0072b2)" in text
    assert ' id="name-' in text and "url(#name-" in text
    assert 'width="' not in text[: text.index(">")]


def test_page_escapes_what_it_is_told():
    section = page.Section("<b>", "a & b", "", [page.Table(["<i>"], [], "c")])
    text = page.render("T", "lead", [section], ["left <out>"])
    assert "<b>" not in text and "&lt;b&gt;" in text and "a &amp; b" in text
    assert "&lt;i&gt;" in text and "left &lt;out&gt;" in text


@pytest.mark.parametrize("module", [labels, style, splits])
def test_examples(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted and not outcome.failed
