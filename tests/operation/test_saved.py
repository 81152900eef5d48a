"""What a tail keeps for backward: tensors that are alive anyway, a mask, vectors, and at most a K x K matrix."""

import gc
import weakref

import pytest
import torch
from samples import SAMPLES, Branch, Sample, build

from fused_resnet.strategy import use_strategy

C = 24


def saved_by(sample, device):
    """Names of the tensors saved that exist outside, shapes of the others, and all tensors saved."""
    tail, inputs, _ = build(sample, device)
    saved = []
    with use_strategy("moments"), torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = tail.fused(inputs)
    known = {t.data_ptr(): name for name, t in (*tail.named_parameters(), *inputs.items(), ("y", y))}
    known |= {t.data_ptr(): "packed mask" for t in saved if t.dtype == torch.uint8}
    names = {known[t.data_ptr()] for t in saved if t.data_ptr() in known}
    return names, sorted(tuple(t.shape) for t in saved if t.data_ptr() not in known), saved


def besides_the_mask(names):
    """The names but that of the relu's mask: bits where the kernels compute, y elsewhere."""
    (mask,) = names & {"y", "packed mask"}
    return names - {mask}


def projection(name, norm):
    """What a projection's backward reads that is alive anyway."""
    return {f"{name}.x", f"{name}.conv.weight"} | ({f"{name}.norm.weight"} if norm else set())


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_no_pre_norm_tensor_is_kept(sample, device):
    names, others, saved = saved_by(sample, device)
    assert saved or sample.activation is None
    assert not any(len(shape) == 4 for shape in others), others
    wide = {f"{name}.x" for name in ("main", "shortcut")} | {"y"}
    assert sum(tuple(t.shape) == sample.shape for t in saved) <= len(names & wide)


def test_moments_keep_the_input_vectors_and_one_covariance(device):
    names, others, _ = saved_by(SAMPLES["bottleneck projection"], device)
    assert besides_the_mask(names) == projection("main", "training") | projection("shortcut", "training")
    assert others == sorted([(17,), (C,), (17, 17), (19,), (C,), (19, 19)])  # mean, 1 / std, covariance


def test_evaluation_keeps_vectors_alone(device):
    names, others, _ = saved_by(SAMPLES["bottleneck evaluated"], device)
    assert besides_the_mask(names) == projection("main", "eval") | projection("shortcut", "eval")
    assert others == [(C,)] * 4


def test_an_identity_keeps_no_input(device):
    names, others, _ = saved_by(SAMPLES["basic identity"], device)
    assert besides_the_mask(names) == {"main.x", "main.norm.weight"}
    assert others == [(C,)] * 2


def test_a_zero_padded_shortcut_keeps_no_input(device):
    names, _, _ = saved_by(SAMPLES["basic zero-padded"], device)
    assert besides_the_mask(names) == {"main.x", "main.norm.weight"}


def test_no_activation_keeps_no_output(device):
    names, others, _ = saved_by(SAMPLES["preactivation identity"], device)
    assert names == projection("main", None)
    assert others == []


def test_the_sum_of_a_norm_and_nothing_keeps_its_input(device):
    names, _, _ = saved_by(Sample(Branch("direct", "training"), None, None), device)
    assert names == {"main.x", "main.norm.weight"}


def test_no_grad_keeps_nothing(device):
    with torch.no_grad():
        _, _, saved = saved_by(SAMPLES["bottleneck projection"], device)
    assert saved == []


def test_graph_is_freed_with_the_output(device):
    """No cycle keeps the tensors of a training step alive until the garbage collector finds it."""
    tail, inputs, dy = build(SAMPLES["bottleneck projection"], device)
    x = inputs.pop("shortcut.x")
    with use_strategy("moments"):
        y = tail.fused({**inputs, "shortcut.x": x})
    input_of_the_graph = weakref.ref(x)
    gc.disable()
    try:
        y.backward(dy)
        del x, y
        assert input_of_the_graph() is None
    finally:
        gc.enable()
