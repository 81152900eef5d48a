"""Choosing a backend: what there is, what can be used here, and what "auto" takes."""

import copy
import threading

import pytest
import torch

import fused_resnet
from fused_resnet import available_backends, backend, use_backend
from fused_resnet.functional import Direct, Norm, residual_tail

UNAVAILABLE = [name for name, reason in available_backends().items() if reason is not None]


def chosen():
    return copy.copy(backend.choice.value)


def test_every_backend_is_listed_with_the_reason_for_its_absence():
    backends = available_backends()
    assert list(backends) == ["cuda", "emulated", "reference"]
    assert backends["reference"] is None
    assert all(reason is None or (isinstance(reason, str) and reason) for reason in backends.values())


def test_auto_is_the_default():
    assert chosen() == "auto"


def test_function_sets_the_backend_until_further_notice():
    try:
        use_backend("reference")
        assert chosen() == "reference"
    finally:
        use_backend("auto")
    assert chosen() == "auto"


def test_context_manager_restores_the_former_backend():
    with use_backend("reference"):
        with use_backend("auto"):
            assert chosen() == "auto"
        assert chosen() == "reference"
    assert chosen() == "auto"


def test_context_manager_restores_after_an_exception():
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert chosen() == "auto"


def test_all_threads_see_the_choice():
    """Backward runs in threads of its own."""
    seen = []
    with use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(chosen()))
        thread.start()
        thread.join()
    assert seen == ["reference"]


@pytest.mark.parametrize("name", ["CUDA", "triton", "", None])
def test_unknown_backend_lists_the_choices_and_changes_nothing(name):
    with use_backend("reference"):
        with pytest.raises(ValueError, match=r"backend is .*, expected one of") as caught:
            use_backend(name)
        assert chosen() == "reference"
    assert repr(name) in str(caught.value)
    assert all(repr(choice) in str(caught.value) for choice in ("auto", "cuda", "emulated", "reference"))


@pytest.mark.skipif(not UNAVAILABLE, reason="every backend can be used here")
def test_backend_that_cannot_be_used_says_why():
    for name in UNAVAILABLE:
        with pytest.raises(RuntimeError) as caught:
            use_backend(name)
        assert name in str(caught.value)
        assert available_backends()[name] in str(caught.value)
        assert chosen() == "auto"


def test_auto_never_takes_the_emulator(monkeypatch):
    """It is a testing aid: on tensors of the CPU "auto" is the reference, whatever else could be used."""
    x = torch.randn(2, 3, 4, 4)
    with use_backend("reference"):
        expected = residual_tail(Direct(x, Norm()), None)
    monkeypatch.setattr(backend, "available_backends", lambda: dict.fromkeys(available_backends()))
    monkeypatch.setattr(backend, "_kernel_computation", lambda _: pytest.fail("took the kernels"))
    assert torch.equal(residual_tail(Direct(x, Norm()), None), expected)


def test_summary_names_what_can_be_used_and_what_cannot():
    summary = backend.summary()
    assert "reference" in summary
    for name in UNAVAILABLE:
        assert f"{name}: {available_backends()[name]}" in summary
    assert fused_resnet.use_backend is use_backend
