"""``python -m fused_resnet doctor``: what it tells of an installation, and that it finds what is wrong."""

import json
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from emulated import module_of, on_kernels, only_emulated
from installations import BUILD, OTHER_TORCH, THIS_TORCH

import fused_resnet
from benchmarks.emulator import recorded_launches
from fused_resnet.backend import available_backends
from fused_resnet.backends.kernels import loading
from fused_resnet.command_line import main
from fused_resnet.doctor import diagnosis, selftest
from fused_resnet.doctor.cases import MATHS, Case, cases

CPU = torch.device("cpu")


@pytest.fixture
def only_float32(monkeypatch):
    """A shorter self-test."""
    monkeypatch.setattr(selftest, "MATHS", ("float32",))


@pytest.fixture
def self_tests(monkeypatch):
    """The backends and devices that the self-test would run on: here it passes at once, if on one thread."""
    targets = []

    def passing(backend, device):
        assert torch.get_num_threads() == 1
        targets.append((backend, str(device)))
        return [selftest.Check(backend, str(device), Case("float32", 1, "training"), 0.5, None)]

    monkeypatch.setattr(diagnosis, "run_checks", passing)
    return targets


def run_doctor(capsys, *arguments):
    """Exit status and what was printed."""
    status = main(["doctor", *arguments])
    return status, capsys.readouterr().out


# The command


def test_doctor_examines_this_installation(tmp_path):
    """It is well, but for modules that were built for sanitizers or for another Python."""
    names = [name for name in ("_C", "_emulated") if loading.was_built(name)]
    unusable = [name for name in names if loading.load(name)[1] is not None]
    command = [sys.executable, "-m", "fused_resnet", "doctor", "--json"]
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert [problem.split(":")[0] for problem in found["problems"]] == unusable
    assert done.returncode == (1 if unusable else 0)
    assert found["versions"]["torch"] == torch.__version__
    assert found["backends"] == available_backends()
    tested = {check["backend"] for check in found["checks"] if check["worst"] <= 1}
    assert tested == {name for name, reason in available_backends().items() if reason is None}


def test_text_and_json_tell_the_same(installation, self_tests, capsys):
    installation.built({**THIS_TORCH, "nvcc": "13.0"})
    texts = {}
    for arguments in ((), ("--json",)):
        status, texts[arguments] = run_doctor(capsys, *arguments)
        assert status == 1
    found = json.loads(texts["--json",])
    assert found == json.loads(json.dumps(asdict(diagnosis.examine())))
    facts = [*found["versions"].values(), *found["problems"], "nvcc 13.0", "architectures 8.0 9.0"]
    facts += [part for gpu in found["gpus"] for part in (gpu["device"], gpu["name"], gpu["architecture"])]
    for fact in facts:
        assert fact is None or fact in texts[()]


@pytest.mark.parametrize("arguments", [["doctor", "--xml"], ["doctor", "now"], ["nurse"], []])
def test_arguments_that_there_are_not_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m fused_resnet" in capsys.readouterr().err


# Installations


def test_threads_are_as_before(self_tests):
    former = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        diagnosis.examine()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(former)


def test_each_backend_is_tested_on_each_device_that_it_can_use(installation, self_tests):
    installation.built(THIS_TORCH)  # has code for the first GPU, not for the second
    diagnosis.examine()
    assert [target for target in self_tests if target[0] != "emulated"] == [
        ("cuda", "cuda:0"),
        ("reference", "cpu"),
        ("reference", "cuda:0"),
        ("reference", "cuda:1"),
    ]


def test_gpus_without_kernels_are_one_problem(installation, self_tests, capsys):
    status, text = run_doctor(capsys)
    assert status == 1
    (problem,) = [line for line in text.splitlines() if line.startswith("PROBLEM")]
    assert problem == f"PROBLEM: _C: not built (no nvcc was found): {BUILD}"
    assert ("cuda", "cuda:0") not in self_tests


def test_without_a_gpu_to_have_no_kernels_is_a_choice(installation, self_tests, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, text = run_doctor(capsys)
    assert status == 0
    assert "all is well" in text
    assert "not built (no nvcc was found)" in text


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (OTHER_TORCH, ["_C: built for torch 1.2.3", torch.__version__]),
        (THIS_TORCH, ["_C: built for architectures 8.0 9.0", "cuda:1", "is 12.0"]),
    ],
)
def test_kernels_that_were_built_and_cannot_be_used_are_a_problem(installation, self_tests, capsys, record, words):
    installation.built(record)
    status, text = run_doctor(capsys)
    assert status == 1
    (problem,) = [line for line in text.splitlines() if line.startswith("PROBLEM")]
    for word in (*words, BUILD):
        assert word in problem


@pytest.mark.parametrize(
    ("value", "words"), [("cuda", "not built (no nvcc was found)"), ("gpu", "FUSED_RESNET_REQUIRE is 'gpu'")]
)
def test_requirement_that_fails_every_tail_is_a_problem(installation, self_tests, monkeypatch, capsys, value, words):
    monkeypatch.setenv("FUSED_RESNET_REQUIRE", value)
    status, text = run_doctor(capsys)
    assert status == 1
    assert words in text.split("PROBLEM", 1)[1]


# The self-test


def test_cases_are_each_math_number_of_products_and_mode():
    found = list(cases())
    assert len(found) == len(set(found)) == len(MATHS) * 9
    assert {case.math for case in found} == {"float32", "tf32", "bfloat16", "float16"}


@only_emulated
def test_every_kernel_of_a_tail_is_launched(only_float32, backend):
    with recorded_launches() as launches:
        assert all(check.problem is None for check in selftest.run_checks("emulated", CPU))
    shared = {"summarise", "apply", "grad_summarise", "grad_complete", "grad_apply"}
    assert {launch.kernel for launch in launches} == {"forward", "backward"} | shared


WRONG_TAILS = {
    "output": lambda y, main: y * 1.001,
    "output that is no number": lambda y, main: y * float("nan"),
    "output that was never written": lambda y, main: y * 0,
    "gradient of main.x": lambda y, main: y.mul(1) if main.x.register_hook(lambda g: g * 1.001) else None,
    "gradient of main.norm.weight": lambda y, main: y if main.norm.weight.register_hook(lambda g: 0 * g) else None,
    "main.norm.running_var": lambda y, main: y if main.norm.running_var.mul_(1.001) is not None else None,
    "main.norm.num_batches_tracked": lambda y, main: y if main.norm.num_batches_tracked.add_(1) is not None else None,
}


@pytest.mark.parametrize("name", WRONG_TAILS)
def test_self_test_names_what_is_wrong(name, only_float32, monkeypatch):
    compute = selftest.residual_tail
    monkeypatch.setattr(selftest, "residual_tail", lambda *tail: WRONG_TAILS[name](compute(*tail), tail[0]))
    checks = list(selftest.run_checks("reference", CPU))
    assert checks
    for check in checks:
        assert f"{name.split(' that')[0]} is off by" in check.problem
        assert check.worst is None or check.worst > 1


def test_self_test_has_room_for_rounding():
    for check in selftest.run_checks("reference", CPU):
        assert check.worst < 0.75


class Spoilt:
    """A call of a module that runs as the module's own, and then spoils what it has written."""

    def __init__(self, call, written):
        self._call, self._written = call, written

    def run(self):
        self._call.run()
        self._written.mul_(1.01)

    def apply(self):
        self._call.apply()
        self._written.mul_(1.01)

    def complete(self):
        self._call.complete()
        self._written.mul_(1.01)

    def __getattr__(self, name):
        return getattr(self._call, name)


@pytest.fixture
def tested(backend):
    """The device that the backend is tested on, by the name that the doctor gives it."""
    return "cuda:0" if backend == "cuda" else "cpu"


@pytest.fixture
def module(backend, nothing_remembered):
    return module_of(backend)


@on_kernels
def test_forward_that_writes_wrong_numbers_is_found(only_float32, module, tested, backend, monkeypatch, capsys):
    """As a module for another architecture would."""
    forward = module.Forward
    monkeypatch.setattr(module, "Forward", lambda *, y, **rest: Spoilt(forward(y=y, **rest), y))
    status, text = run_doctor(capsys)
    assert status == 1
    assert f"{backend} on {tested}, 0 of 9 checks passed" in text
    assert "reference on cpu, 9 of 9 checks passed" in text
    assert f"PROBLEM: self-test: {backend} on {tested}, float32, 1 product, training: output is off by" in text


@on_kernels
def test_backward_that_writes_wrong_numbers_is_found(only_float32, module, tested, backend, monkeypatch, capsys):
    gradient, backward = module.BranchGradient, module.Backward
    written = []

    def branch_gradient(*, dx, **rest):
        written.append(dx)
        return gradient(dx=dx, **rest)

    monkeypatch.setattr(module, "BranchGradient", branch_gradient)
    monkeypatch.setattr(module, "Backward", lambda **call: Spoilt(backward(**call), written[-1]))
    status, text = run_doctor(capsys)
    assert status == 1
    assert f"{backend} on {tested}, 0 of 9 checks passed" in text
    assert "gradient of shortcut.x is off by" in text


@on_kernels
def test_module_that_raises_is_found_in_each_check(only_float32, module, tested, backend, monkeypatch, capsys):
    def fail(**call):
        raise RuntimeError("no kernel image is available for execution on the device\nCompile with ...")

    monkeypatch.setattr(module, "Forward", fail)
    status, text = run_doctor(capsys)
    assert status == 1
    assert text.count("training: RuntimeError: no kernel image is available for execution on the device\n") == 3
    assert f"{backend} on {tested}, 0 of 9 checks passed" in text


@pytest.mark.parametrize("allowed", [False, True])
def test_self_test_sets_tf32_and_restores_it(allowed, monkeypatch):
    """Also where a tail raises."""
    seen = {}

    def recording(main, shortcut):
        seen.setdefault(main.x.dtype, set()).add(torch.backends.cudnn.allow_tf32)
        raise RuntimeError("enough")

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
    monkeypatch.setattr(selftest, "residual_tail", recording)
    monkeypatch.setattr(selftest, "use_backend", lambda name: fused_resnet.use_backend("reference"))
    assert len(list(selftest.run_checks("emulated", CPU))) == 36
    assert seen == {torch.float32: {False, True}, torch.bfloat16: {False}, torch.float16: {False}}
    assert torch.backends.cudnn.allow_tf32 is allowed


def test_self_test_draws_nothing_from_the_global_generator(only_float32):
    before = torch.random.get_rng_state()
    list(selftest.run_checks("reference", CPU))
    assert torch.equal(torch.random.get_rng_state(), before)
