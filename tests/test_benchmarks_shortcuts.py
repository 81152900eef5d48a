"""The comparison of shortcuts runs at its smallest, and its gradients are those that autograd leaves in the network."""

import json
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from documents import ROOT

from benchmarks.__main__ import main
from benchmarks.errors import EXTRA

for dependency in EXTRA:
    pytest.importorskip(dependency)

from benchmarks.data import Images  # noqa: E402
from benchmarks.shortcuts.experiment import Option, Run, build, gradient_norms  # noqa: E402
from benchmarks.shortcuts.summary import summary  # noqa: E402
from fused_resnet import models  # noqa: E402


def test_gradient_norms_are_of_each_blocks_output():
    network = models.cifar_resnet(8, in_channels=1)
    batch = Images(torch.randn(4, 1, 8, 8), torch.arange(4))
    norms = gradient_norms(network, batch)
    # The classifier behind the last block, by hand: y -> mean over the pixels -> fc.
    kept = []
    network.layer3[0].register_forward_hook(lambda module, inputs, output: kept.append(output.detach()))
    network(batch.images)
    y = kept[0].requires_grad_()
    F.cross_entropy(network.fc(y.mean((2, 3))), batch.labels).backward()
    assert len(norms) == 3
    assert norms[-1] == pytest.approx(float(y.grad.norm()), rel=1e-4)


def test_identity_only_leaves_the_shortcuts_out_where_the_shape_changes():
    network = build("identity only", 14)
    found = {name: type(module).__name__ for name, module in network.named_modules() if name.endswith("downsample")}
    missing = {"layer2.0.downsample", "layer3.0.downsample"}
    assert {name for name, kind in found.items() if kind == "NoShortcut"} == missing
    assert {kind for name, kind in found.items() if name not in missing} == {"IdentityShortcut"}


def test_it_writes_numbers_and_pictures(tmp_path):
    assert main(["shortcuts", "--depth", "8", "--steps", "2", "--seeds", "1", "--output", str(tmp_path)]) == 0
    runs = json.loads((tmp_path / "shortcuts.json").read_text())["runs"]
    assert set(runs) == set(get_args(Option))
    for (run,) in runs.values():
        assert len(run["losses"]) == 2
        assert all(norm > 0 for norm in run["gradients_before"] + run["gradients_after"])
    for name in ("gradients.svg", "losses.svg"):
        assert "</svg>" in (tmp_path / name).read_text()


def test_the_questions_show_the_numbers_of_the_file_beside_the_pictures():
    runs = json.loads((ROOT / "docs" / "figures" / "shortcuts.json").read_text())["runs"]
    table = summary({option: [Run(**run) for run in own] for option, own in runs.items()})
    assert table in (ROOT / "docs" / "faq.md").read_text()
