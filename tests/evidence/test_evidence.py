"""Every target has evidence, made from the sources as they stand, that reached its figures; and its beginning repeats."""

import math
import xml.etree.ElementTree

import pytest

from evidence import page, record
from evidence.__main__ import DATA, data_folder
from evidence.target import NAMES, target


@pytest.fixture(params=NAMES)
def one(request):
    """Each target in turn."""
    return target(request.param)


def test_evidence_is_there_and_current_and_reached_its_figures(one):
    assert record.problems(one, record.read(one.name)) == []


def test_the_beginning_of_the_run_finds_the_stored_losses(one):
    if one.quick_reads and not (DATA / one.folder).is_dir():
        pytest.skip(f"{one.name} reads {one.folder} of ../shared/data, which is not there")
    stored = record.read(one.name)
    assert stored is not None, f"there is no evidence; run python -m evidence {one.name}"
    assert record.compare(one.quick(data_folder(one, DATA, quick=True)), stored) == []


def test_the_page_says_what_the_records_say():
    assert (record.FOLDER / "README.md").read_text(encoding="utf-8") == page.page(), "run python -m evidence"


def test_every_record_has_its_picture(one):
    root = xml.etree.ElementTree.parse(record.FOLDER / f"{one.name}.svg").getroot()
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == len(record.read(one.name)["curves"]) >= 1


def test_curves_are_thinned_and_whole(one):
    for curve in record.read(one.name)["curves"]:
        assert 1 <= len(curve["losses"]) == len(curve["steps"]) <= 500 and curve["steps"] == sorted(set(curve["steps"]))


def test_a_record_says_how_it_was_made(one):
    found = record.read(one.name)
    assert set(found) == {"target", "title", "asked", "recipe", "figures", "seeds", "seconds", "made", "versions", "machine", "commit",
                          "changed_since", "sources", "quick", "curves", "notes"}
    assert {"python", "numpy", "llvmlite", "adjoint"} <= set(found["versions"]) and len(found["commit"]) == 40
    assert set(found["machine"]) == {"processor", "cores", "threads"}


def found_of(name, words):
    """The figures of a record whose names begin so."""
    return [f["found"] for f in record.read(name)["figures"] if f["name"].startswith(words)]


@pytest.mark.mission(169)
def test_the_convolutional_network_reaches_its_accuracy(figure):
    figure.at_least(found_of("fashion_mnist", "mean test accuracy"), 92.3)
    figure.at_least(found_of("fashion_mnist", "test accuracy without dropout"), 91.5)


@pytest.mark.mission(169)
def test_the_recurrent_network_reaches_its_loss(figure):
    figure.at_most(found_of("char_lstm", "held-out loss"), 1.61)


@pytest.mark.mission(171)
def test_the_transformer_reaches_its_loss(figure):
    figure.at_most(found_of("gpt", "mean held-out loss"), 1.92)


@pytest.mark.mission(160)
def test_the_neural_turing_machine_copies(figure):
    for seed in (0, 1):
        # It may copy without any mistake: then no limit is within ten times of what was found.
        figure.at_most(found_of("ntm", f"seed {seed}: wrong bits a sequence of length 20"), 0.1, slack=math.inf)


@pytest.mark.mission(159)
def test_both_alexnets_have_their_parameters(figure):
    figure.equal(found_of("alexnet", "AlexNet: parameters") + found_of("alexnet", "AlexNet2012: parameters"), [61_100_840, 60_965_224])


@pytest.mark.mission(133)
def test_logistic_regression_finds_the_minimum_that_scikit_learn_finds(figure):
    stored = record.read("logistic_regression")["quick"]["losses"]
    figure.equal(stored[0], 3823 * 2.302585092994046, rel=1e-12)            # W = 0: n log 10
