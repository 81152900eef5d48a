"""`fuse(model, norms=True)`: batch norms with the relu behind them, in blocks and outside; and nothing silent."""

import copy
import pickle
from collections.abc import Callable, Iterable

import pytest
import torch
import torch.nn.functional as F
from ran_additions import RanAdditions
from torch import Tensor, nn
from user_blocks import SHAPE, WHOLE_TAIL, Block, assert_trains_alike, copies, draw
from user_norms import draw_buffers

import benchmarks.torchvision_operators  # noqa: F401 - before torchvision and all that imports it
import fused_resnet
from fused_resnet.fusion.leaves import is_norm

timm = pytest.importorskip("timm")
timm_layers = pytest.importorskip("timm.layers")
torchvision = pytest.importorskip("torchvision")
transformers = pytest.importorskip("transformers")

IMAGES = (4, 3, 64, 64)
LEFT = "no addition follows: fuse(model, norms=True) takes it by itself"


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


class NormThen(nn.Module):
    """A norm, modules behind it, and what a function makes of the result and of the input."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], modules: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6)
        self.behind = nn.Sequential(*modules)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.behind(self.norm(x)), x)


def relu_of_the_norm_of_what_becomes_zero(z: Tensor, x: Tensor) -> Tensor:
    x.mul_(0)
    return F.relu(z)


class TestBlocks:
    def test_norms_of_a_block_are_fused_beside_its_tail(self, computed_tails):
        block, original = copies(Block())
        report = fused_resnet.fuse(block, norms=True, strict=True)
        assert report.fused == {"": f"{WHOLE_TAIL}; bn1 + relu"}
        assert sorted(report.fused_norms) == ["bn1", "bn2", "downsample.1"]
        assert not report.left
        assert_trains_alike(block, original)
        assert len(computed_tails) == 2 * 3

    def test_copies_and_pickles_keep_them(self, computed_tails):
        block, original = copies(Block())
        fused_resnet.fuse(block, norms=True)
        for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
            computed_tails.clear()
            assert_trains_alike(twin, copy.deepcopy(original))
            assert len(computed_tails) == 2 * 3

    def test_without_norms_they_are_told(self):
        report = fused_resnet.fuse(Block())
        assert report.left == {"bn1": LEFT}
        assert report.fused_norms == ["bn2", "downsample.1"]

    def test_fusing_again_without_norms_takes_them_back(self, computed_tails):
        model = nn.Sequential(conv(6, 8), nn.BatchNorm2d(8), nn.ReLU(), Block(8, 8, 1))
        fused_resnet.fuse(model, norms=True)
        fused_resnet.fuse(model)
        assert type(model) is nn.Sequential
        model(torch.randn(SHAPE))
        assert len(computed_tails) == 1

    def test_a_block_of_this_package_fuses_all_its_norms(self, computed_tails):
        block = fused_resnet.nn.Bottleneck(8, 4, stride=2).double()
        original = fused_resnet.unfuse(copy.deepcopy(block))
        report = fused_resnet.fuse(block, norms=True)
        assert sorted(report.fused_norms) == ["bn1", "bn2", "bn3", "downsample.1"]
        assert_trains_alike(block, original, (4, 8, 6, 6))
        assert len(computed_tails) == 3 * 3
        fused_resnet.unfuse(block)
        assert not block.fused_norms
        assert sorted(fused_resnet.fuse(block).left) == ["bn1", "bn2"]

    def test_hooks_fire_on_a_norm_and_its_relu(self, computed_tails):
        block, original = copies(Block())
        block.relu = original.relu = nn.ReLU()
        fused_resnet.fuse(block, norms=True)
        fired = []
        for model in (block, original):
            model.bn1.register_forward_hook(lambda module, inputs, output: fired.append(1) or 2 * output)
        assert_trains_alike(block, original)
        assert len(fired) == 2 * 3
        assert not computed_tails

    @pytest.mark.parametrize("between", [[], [nn.Identity()]], ids=["", "behind an identity"])
    def test_a_norm_that_two_read_is_fused_without_a_relu(self, between, computed_tails):
        block, _ = copies(NormThen(lambda z, x: F.relu(z) * z.sigmoid(), between))
        assert fused_resnet.fuse(block).left["norm"].startswith("sigmoid follows")
        block, original = copies(NormThen(lambda z, x: F.relu(z) * z, between))
        assert fused_resnet.fuse(block, norms=True).fused == {"": "norm"}
        assert_trains_alike(block, original)
        assert len(computed_tails) == 3

    def test_an_input_that_is_overwritten_ahead_of_the_relu_stays(self):
        block, original = copies(NormThen(relu_of_the_norm_of_what_becomes_zero).eval())
        assert "overwritten" in fused_resnet.fuse(block, norms=True).left["norm"]
        x = draw()
        with torch.no_grad():
            torch.testing.assert_close(block(x.clone()), original(x.clone()))

    def test_parts_of_a_chain_and_chains_that_were_lengthened_compute_what_they_hold(self):
        chain, original = copies(nn.Sequential(conv(6, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8)))
        fused_resnet.fuse(chain, norms=True)
        x = draw()
        torch.testing.assert_close(chain[:3](x), original[:3](x))
        for model in (chain, original):
            model.append(nn.Sigmoid())
        torch.testing.assert_close(chain(x), original(x))

    @pytest.mark.parametrize("act", [nn.ReLU6, nn.SiLU, nn.Hardswish, nn.LeakyReLU])
    def test_other_activations_stay_and_are_named(self, act):
        report = fused_resnet.fuse(nn.Sequential(conv(6, 8), nn.BatchNorm2d(8), act()), norms=True, strict=True)
        assert not report.fused
        assert report.left == {"1": f"{act.__name__} follows: the kernels have no epilogue of it, and no derivative"}

    def test_frozen_norms_with_a_relu_within(self, computed_tails):
        model = nn.Sequential(conv(6, 8), timm_layers.FrozenBatchNormAct2d(8), conv(8, 8))
        draw_buffers(model)
        model, original = copies(model)
        assert fused_resnet.fuse(model, norms=True).fused == {"": "1 + relu"}
        assert_trains_alike(model, original)
        assert len(computed_tails) == 3


class MainBranch(nn.Module):
    """Ends in a norm, which the addition around it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = conv(6, 6), nn.BatchNorm2d(6), conv(6, 6), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))


class Around(nn.Module):
    def __init__(self, main: nn.Module) -> None:
        super().__init__()
        self.main = main

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.main(x) + x)


class TestModulesWithinModules:
    mains = pytest.mark.parametrize(
        ("main", "norms"),
        [
            (MainBranch(), ("main.bn1", "main.bn2")),
            (
                nn.Sequential(conv(6, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 6), nn.BatchNorm2d(6)),
                ("main.1", "main.4"),
            ),
        ],
        ids=["a module", "a chain"],
    )

    @mains
    def test_a_norm_at_a_modules_end_goes_to_the_addition_around_it(self, main, norms, computed_tails):
        block, original = copies(Around(copy.deepcopy(main)))
        report = fused_resnet.fuse(block, norms=True)
        first, last = norms
        (what,) = report.fused.values()
        assert what.startswith(f"{last} + identity + relu; {first} + relu")
        assert_trains_alike(block, original)
        assert len(computed_tails) == 2 * 3

    @mains
    def test_it_is_fused_by_itself_where_nothing_around_it_can_be_traced(self, main, norms, computed_tails):
        class Untraceable(Around):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x if x.sum() != 0 else -x)

        block, original = copies(Untraceable(copy.deepcopy(main)))
        report = fused_resnet.fuse(block, norms=True)
        assert report.fused.keys() == {"main"}
        assert sorted(report.fused_norms) == sorted(norms)
        assert_trains_alike(block, original)
        assert len(computed_tails) == 2 * 3

    def test_a_block_whose_convolution_is_outside_of_it_is_fused(self, computed_tails):
        """Tails are found where there is a norm or an addition, with a convolution beside it or not."""

        class Joins(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.BatchNorm2d(6)

            def forward(self, h: Tensor, x: Tensor) -> Tensor:
                return torch.relu(self.norm(h) + F.pad(x, (0, 0, 0, 0, 0, 2)))

        class Outside(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.joins = conv(4, 6), Joins()

            def forward(self, x: Tensor) -> Tensor:
                return self.joins(self.conv(x), x)

        model, original = copies(Outside())
        assert fused_resnet.fuse(model).fused == {"joins": "norm + zero pad + relu"}
        assert_trains_alike(model, original, (4, 4, 8, 8))
        assert len(computed_tails) == 3

    def test_a_module_that_only_adds_and_takes_the_relu_is_fused(self):
        class Adds(nn.Module):
            def forward(self, a: Tensor, b: Tensor) -> Tensor:
                return F.relu(a + b)

        module = Adds()
        assert fused_resnet.fuse(module).fused == {"": "identity + identity + relu"}
        a, b = draw(), draw()
        torch.testing.assert_close(module(a, b), F.relu(a + b))


MODELS = {
    "torchvision resnet18": (lambda: torchvision.models.resnet18(), 20),
    "torchvision resnet50": (lambda: torchvision.models.resnet50(), 53),
    "torchvision vgg11_bn": (lambda: torchvision.models.vgg11_bn(dropout=0.0), 8),
    "torchvision mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(dropout=0.0), 17),
    "torchvision densenet121": (lambda: torchvision.models.densenet121(), 121),
    "torchvision regnet_y_400mf": (lambda: torchvision.models.regnet_y_400mf(), 53),
    "timm resnet50d": (lambda: timm.create_model("resnet50d"), 55),
}


# Of the same parts as others.
SLOW = ("torchvision resnet50", "torchvision vgg11_bn", "timm resnet50d", "torchvision regnet_y_400mf")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in MODELS])
def test_a_whole_network_trains_alike(name, computed_tails):
    make, fused_norms = MODELS[name]
    model, original = copies(make())
    text = repr(model)
    report = fused_resnet.fuse(model, norms=True)
    assert len(report.fused_norms) == fused_norms
    assert_trains_alike(model, original, IMAGES, 1e-8, steps=1)
    assert computed_tails
    assert repr(fused_resnet.unfuse(model)) == text


ZOO = {
    **{name: make for name, (make, _) in MODELS.items()},
    "torchvision efficientnet_b0": lambda: torchvision.models.efficientnet_b0(),
    "torchvision googlenet": lambda: torchvision.models.googlenet(init_weights=False),
    "torchvision deeplabv3": lambda: torchvision.models.segmentation.deeplabv3_resnet50(weights_backbone=None),
    "torchvision fasterrcnn": lambda: torchvision.models.detection.fasterrcnn_resnet50_fpn(weights_backbone=None),
    "timm regnetx_002": lambda: timm.create_model("regnetx_002"),
    "timm resnetv2_50": lambda: timm.create_model("resnetv2_50"),
    "timm hrnet_w18_small": lambda: timm.create_model("hrnet_w18_small"),
    "timm dla34": lambda: timm.create_model("dla34"),
    "transformers resnet": lambda: transformers.ResNetModel(transformers.ResNetConfig(depths=[1, 1, 1, 1])),
    "this package's resnet18": lambda: fused_resnet.models.resnet18(),
}


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("name", ZOO)
def test_every_batch_norm_is_accounted_for(name, norms):
    model = ZOO[name]()
    report = fused_resnet.fuse(model, norms=norms)
    every = [path for path, module in model.named_modules() if is_norm(module)]
    places = report.fused_norms, report.refused, report.left
    assert every
    for path in every:
        assert sum(path in place for place in places) == 1, path
    assert len(set(report.fused_norms)) == len(report.fused_norms)
    assert all(reason for reason in [*report.refused.values(), *report.left.values()])


WITHOUT_ADDITIONS = ("torchvision vgg11_bn", "torchvision densenet121", "torchvision googlenet")


@pytest.mark.parametrize("name", ZOO)
def test_every_module_that_adds_feature_maps_is_accounted_for(name):
    model = ZOO[name]()
    ran = copy.deepcopy(model).eval()
    ran = ran.backbone if name == "torchvision fasterrcnn" else ran  # the rest of it needs operators of torchvision's
    with RanAdditions(ran) as additions, torch.no_grad():
        ran(torch.randn(2, 3, 64, 64))
    model = model.backbone if name == "torchvision fasterrcnn" else model
    report = fused_resnet.fuse(model)
    assert bool(additions.names) == (name not in WITHOUT_ADDITIONS)
    for path in additions.names:
        assert any(path in place for place in (report.fused, report.refused, report.left)), path


class TestAdditionsThatStay:
    def test_each_of_a_modules_reasons_is_told(self):
        report = fused_resnet.fuse(AddsThrice())
        assert report.refused == {"": "the addition has alpha=2"}
        assert report.left == {"": "an addition alone, with no norm ahead of it and no relu behind it"}

    def test_of_a_module_that_cannot_be_traced(self):
        report = fused_resnet.fuse(nn.ModuleList([AddsWhatIsPositive(), nn.Flatten()]))
        assert report.left.keys() == {"0"}
        assert report.left["0"].startswith("it may add: its forward cannot be traced")

    def test_of_a_module_that_the_filter_leaves_alone(self):
        report = fused_resnet.fuse(nn.ModuleList([Block()]), filter=lambda name, module: False)
        assert report.left["0"] == "the filter leaves it alone"


class AddsThrice(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.relu(torch.add(x, y, alpha=2)) * (x + y) * (y + x)


class AddsWhatIsPositive(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y if x.sum() > 0 else x


class TestTransforms:
    """What is done to models, with norms fused."""

    @pytest.fixture
    def pair(self, device, backend):
        dtype = torch.float64 if backend == "reference" else torch.float32
        model = nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(inplace=True), Block(6, 8, 2)).to(device)
        model, original = copies(model, dtype)
        fused_resnet.fuse(model, norms=True)
        return model, original

    def batch(self, model: nn.Module) -> Tensor:
        weight = model[0].weight
        return torch.randn(2, 3, 6, 6, dtype=weight.dtype, device=weight.device)

    def test_compiled(self, pair):
        model, original = pair
        x = self.batch(model)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        for training in (True, False):
            found, expected = (of.train(training)(x) for of in (compiled, original))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def test_exported(self, pair):
        model, original = (of.eval() for of in pair)
        x = self.batch(model)
        program = torch.export.export(model, (x,))
        torch.testing.assert_close(program.module()(x), original(x), rtol=1e-4, atol=1e-5)

    def test_under_autocast(self, pair):
        model, original = pair
        x = self.batch(model)
        with torch.autocast(x.device.type, torch.bfloat16):
            found, expected = model(x), original(x)
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=5e-2, atol=5e-2)

    def test_gradients_against_finite_differences(self):
        model, _ = copies(nn.Sequential(conv(2, 3), nn.BatchNorm2d(3), nn.ReLU()))
        fused_resnet.fuse(model, norms=True)
        x = draw(2, 2, 3, 3).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, gamma: F.relu(model(x) * gamma), (x, draw(3, 1, 1).requires_grad_()))

    def test_every_kernel_computes_it(self, pair):
        model, original = pair
        x = self.batch(model)
        for of in pair:
            of(x).square().sum().backward()
        for (name, mine), theirs in zip(model.named_parameters(), original.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-4, msg=name)
