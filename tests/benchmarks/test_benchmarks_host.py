"""The benchmark of host time runs, and its sums are those of the network."""

import pytest
import torch
from documents import ROOT
from emulated import needs_emulator

from benchmarks.__main__ import main
from benchmarks.emulator import recorded_launches
from benchmarks.host.measure import BLOCKS_OF_NETWORK, NETWORK, summed
from benchmarks.host.shown import caption, draw, headline
from benchmarks.result import number, read
from fused_resnet import residual_tail, use_backend
from fused_resnet.functional import Direct, Norm

pytestmark = needs_emulator


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    path = tmp_path_factory.mktemp("host") / "host.json"
    assert main(["host", "--quick", "--device", "cpu", "--json", str(path)]) == 0
    return read(path)


@pytest.mark.slow
def test_every_kind_of_tail_and_block_is_there(result):
    rows = {(row["what"], row["kind"], row["precision"]) for row in result.rows}
    for precision in ("float32", "autocast"):
        for kind in ("projection+projection", "projection+identity", "direct+identity", "direct+padding"):
            assert ("tail", kind, precision) in rows
        for kind in (*BLOCKS_OF_NETWORK, NETWORK):
            assert ("own block", kind, precision) in rows


@pytest.mark.slow
def test_the_launches_are_made_again_afterwards(result):
    with use_backend("emulated"), recorded_launches() as launches:
        residual_tail(Direct(torch.randn(2, 8, 3, 3), Norm()), None)
    assert len(launches) == 1


def test_the_network_is_the_sum_of_its_blocks():
    def row(kind, unfused, fused):
        parts = {"unfused forward": unfused, "unfused backward": 0.0, "fused forward": fused, "fused backward": 0.0}
        return {"what": "tail", "kind": kind, "precision": "float32", **parts}

    (whole,) = summed([row("projection+projection", 10.0, 4.0), row("projection+identity", 5.0, 1.0)])
    assert (whole["unfused forward"], whole["fused forward"]) == (4 * 10.0 + 12 * 5.0, 4 * 4.0 + 12 * 1.0)
    assert whole["ratio"] == pytest.approx(0.28)


def test_it_is_told_and_drawn():
    result = read(ROOT / "benchmarks" / "results" / "host-cpu.json")
    header, lines = headline(result)
    assert all(len(line) == len(header) for line in lines)
    assert "launches left out" in caption(result)
    assert draw(result).axes
    assert all((number(row["ratio"]) or 0) > 0 for row in result.rows)
