"""Networks that train in several threads of a process at the same time: workspaces are each call's own."""

import copy
import pickle
import threading

import torch
import torch.nn.functional as F
from same_bits import assert_same_bits
from small_nets import IMAGES
from torch import nn
from user_blocks import Block

import fused_resnet

THREADS, STEPS = 4, 2


def step_results(model, images, labels):
    """Everything that steps of training leave, and an evaluation."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    found = {}
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        found[f"loss {step}"] = loss.detach()
    found |= {f"gradient of {name}": parameter.grad for name, parameter in model.named_parameters()}
    with torch.no_grad():
        return found | model.state_dict() | {"logits": model.eval()(images)}


def in_threads(functions):
    """The results of functions that start at the same time; an exception of any is raised."""
    barrier, results = threading.Barrier(len(functions)), [None] * len(functions)

    def run(i):
        barrier.wait()
        try:
            results[i] = functions[i]()
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def test_threads_with_copies_of_a_network_get_the_bits_of_one_after_the_other(nets):
    """Batches of different sizes, so that no call's workspace fits another's."""
    images, labels = nets.batch()
    batches = [(images[: 2 + i % 3], labels[: 2 + i % 3]) for i in range(THREADS)]
    expected = [step_results(copy.deepcopy(nets.fused), *batch) for batch in batches]
    models = [copy.deepcopy(nets.fused) for _ in batches]
    runs = zip(models, batches, strict=True)
    found = in_threads([lambda m=model, b=batch: step_results(m, *b) for model, batch in runs])
    for each, other in zip(found, expected, strict=True):
        assert_same_bits(each, other)


def test_threads_may_evaluate_one_network_together(nets):
    model = nets.fused.eval()
    batches = [nets.batch(seed)[0] for seed in range(THREADS)]

    def evaluate(images):
        with torch.no_grad():
            return {"logits": model(images)}

    expected = [evaluate(images) for images in batches]
    found = in_threads([lambda images=images: evaluate(images) for images in batches])
    for each, other in zip(found, expected, strict=True):
        assert_same_bits(each, other)


def test_forward_and_backward_of_different_networks_may_take_turns(nets):
    """Nothing is left over between calls: a backward gives the same after other networks have run in between."""
    other = copy.deepcopy(nets.fused)
    gradients = []
    for disturbed in (False, True):
        model = copy.deepcopy(nets.fused)
        loss = nets.loss(model)
        if disturbed:
            images = torch.randn(2, IMAGES[1], 9, 7, dtype=nets.dtype, device=nets.device)
            other(images).sum().backward()
            other.eval()(images)
        loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert_same_bits(*gradients)


OTHERS = {
    "a module": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()),
    "a compiled module": torch.compile(nn.Conv2d(3, 4, 1), backend="eager"),
    "a fused model": fused_resnet.nn.BasicBlock(3, 3),
}


class RunsOthers(Block):
    """While its forward is traced, another thread runs what it likes."""

    def forward(self, x):
        if not isinstance(x, torch.Tensor):
            found = in_threads([lambda: run_others()])
            assert found == [len(OTHERS)]
        return super().forward(x)


def run_others():
    for other in OTHERS.values():
        assert isinstance(other(torch.randn(2, 3, 4, 4)), torch.Tensor)
    with torch.autograd.graph.save_on_cpu():
        torch.ones(1, requires_grad=True).exp().sum().backward()
    return len(OTHERS)


def test_other_threads_may_run_any_model_while_one_is_fused_or_unpickled():
    block = RunsOthers()
    assert fused_resnet.fuse(block, strict=True).fused
    loaded = pickle.loads(pickle.dumps(block))
    assert type(loaded) is type(block)
    assert "training" not in vars(nn.Module)


def test_a_backward_within_a_backward(nets):
    """A hook that trains another network while gradients of the first are on their way."""
    model, other = copy.deepcopy(nets.fused), copy.deepcopy(nets.fused)
    undisturbed = copy.deepcopy(nets.fused)
    nets.loss(undisturbed).backward()

    def train_other(gradient):
        with torch.enable_grad():
            nets.loss(other, 1).backward()

    images, labels = nets.batch()
    logits = model(images)
    logits.register_hook(train_other)
    F.cross_entropy(logits, labels).backward()
    assert all(parameter.grad is not None for parameter in other.parameters())
    assert_same_bits(*({n: p.grad for n, p in m.named_parameters()} for m in (model, undisturbed)))
