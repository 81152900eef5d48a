"""Loading a pickled model traces nothing; each of its blocks is fused again when it is called first."""

import copy
import pickle
import threading

import pytest
import torch
from user_blocks import Block, assert_trains_alike, copies, draw

import fused_resnet
from fused_resnet.fusion.tracer import BlockTracer

A_TRACE = 2  # runs of a forward: gradients and autocast may make a difference


@pytest.fixture
def original():
    return copies(Block())[0]


@pytest.fixture
def loaded(original):
    block = copy.deepcopy(original)
    fused_resnet.fuse(block, strict=True)
    return pickle.loads(pickle.dumps(block))


@pytest.fixture
def traces(monkeypatch):
    """Counts how often a forward is traced."""
    seen, run = [], BlockTracer.run
    monkeypatch.setattr(BlockTracer, "run", lambda tracer: (seen.append(tracer), run(tracer))[1])
    return seen


def test_loading_copying_and_saving_again_trace_nothing(loaded, original, traces, computed_tails):
    again = pickle.loads(pickle.dumps(copy.deepcopy(loaded)))
    assert not traces
    assert_trains_alike(again, original, steps=1)
    assert len(computed_tails) == 2
    assert traces


def test_calls_at_the_same_time_wait_for_one_trace(loaded, traces, computed_tails):
    loaded.eval()
    calls = [threading.Thread(target=loaded, args=(draw(),)) for _ in range(4)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert len(computed_tails) == len(calls)
    assert len(traces) == A_TRACE


def test_a_compiler_finds_it_fused(loaded, original):
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    x = draw()
    compiled = torch.compile(loaded, fullgraph=True, backend=keep)
    for _ in range(2):
        torch.testing.assert_close(compiled(x), original(x))
    (graph,) = graphs
    assert sum("fused_resnet" in str(node.target) for node in graph.graph.nodes) == 1


@pytest.mark.parametrize("strict", [True, False])
def test_an_export_of_it_is_fused(loaded, strict):
    exported = torch.export.export(loaded.eval(), (draw(),), strict=strict)
    assert sum("fused_resnet" in str(node.target) for node in exported.graph.nodes) == 1


def test_hooks_that_are_there_for_the_first_calls_only(loaded, original, traces, computed_tails):
    """They are called; without them, the block is fused."""
    outputs = []
    hook = loaded.bn2.register_forward_hook(lambda module, args, output: outputs.append(output))
    assert_trains_alike(loaded, original, steps=2)
    assert len(outputs) == 3
    assert not computed_tails
    assert len(traces) == A_TRACE  # at the first of the calls alone
    hook.remove()
    assert_trains_alike(loaded, original, steps=1)
    assert len(computed_tails) == 2


def test_hooks_that_it_was_saved_with(original, computed_tails):
    block = copy.deepcopy(original)
    block.conv1.register_forward_hook(print_nothing)
    fused_resnet.fuse(block, strict=True)
    assert_trains_alike(pickle.loads(pickle.dumps(block)), original, steps=1)
    assert len(computed_tails) == 2


def print_nothing(module, args, output):
    pass


class Rewritten(Block):
    """Its source changes after it has been saved."""


def test_a_block_whose_source_has_no_tail_any_more(monkeypatch, traces):
    block = Rewritten().double()
    fused_resnet.fuse(block, strict=True)
    data = pickle.dumps(block)
    monkeypatch.setattr(Rewritten, "forward", lambda self, x: self.branches(x)[0].sigmoid())
    traces.clear()
    loaded, x = pickle.loads(data), draw()
    torch.testing.assert_close(loaded(x), block(x))
    torch.testing.assert_close(loaded(x), block(x))
    assert len(traces) == A_TRACE  # at the first call alone
    monkeypatch.setenv("FUSED_RESNET_REQUIRE", "cuda")
    with pytest.raises(RuntimeError, match="no tail any more"):
        loaded(x)


def test_replicas_on_other_devices_are_fused(loaded, computed_tails):
    """`nn.DataParallel` makes them for one call."""
    replica = loaded._replicate_for_data_parallel()
    replica._modules = dict(copy.deepcopy(loaded)._modules)
    replica(draw())
    assert len(computed_tails) == 1


def test_fuse_and_unfuse_need_no_call_before(loaded, original):
    assert fused_resnet.fuse(loaded, dry_run=True).fused
    fused_resnet.fuse(loaded, strict=True)
    assert type(fused_resnet.unfuse(loaded)) is Block
    assert_trains_alike(loaded, original, steps=1)
