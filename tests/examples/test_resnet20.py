"""ResNet-20: size, names, the shortcut by hand, training mode, schedule, and PyTorch's outputs and gradients."""

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn
from evidence.resnet20 import RATE, rates
from examples.resnet20 import Block, ResNet20, steps


def test_size_and_names(rng):
    names = nn.named_parameters(ResNet20(rng=rng))
    buffers = [name for name in names if name.split(".")[-1] in ("running_mean", "running_var", "num_batches_tracked")]
    assert sum(array.size for name, array in names.items() if name not in buffers) == 269_722 and len(buffers) == 3 * 19
    assert names["layer2.0.conv1.weight"].shape == (32, 16, 3, 3) and names["fc.weight"].shape == (10, 64)
    assert sum(name.endswith(".weight") and array.ndim in (2, 4) for name, array in names.items()) == 20        # its name


@pytest.mark.mission(171)
def test_without_its_convolutions_a_block_is_its_shortcut(rng, figure):
    x = np.abs(rng.normal(size=(2, 4, 6, 6))).astype(np.float32)
    block = Block(4, 8, 2, rng=rng)
    silent = nn.load_parameters(block, {name: np.zeros_like(a) if name == "bn2.weight" else a
                                        for name, a in nn.named_parameters(block).items()})
    y = silent(x)
    figure.equal(y[:, 2:6], x[:, :, ::2, ::2], rel=1e-7)
    assert y.shape == (2, 8, 3, 3) and not y[:, :2].any() and not y[:, 6:].any()


def test_the_schedule_rises_for_an_epoch_and_falls_to_zero():
    rate = rates(10, 4)
    found = [rate(t) for t in range(40)]
    assert found[0] == RATE / 10 and found[9] == found[10] == RATE and abs(found[25] - RATE / 2) < 1e-12 and 0 < found[39] < 0.003


def test_steps_train_and_absorb_the_running_statistics(rng):
    x, y = rng.normal(size=(16, 3, 32, 32)).astype(np.float32), rng.integers(0, 10, 16)
    model = ResNet20(rng=rng)
    *_, last = steps(model, x, y, epochs=2, batch=8, compiled=False)
    assert last.count == 4 and bool(last.finite)
    assert int(last.model.bn1.num_batches_tracked) == 4 and not np.allclose(last.model.bn1.running_mean, 0.0)


def test_pytorch_gives_the_same_outputs_and_gradients_in_training(rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from evidence import torch_models
    model, x, y = ResNet20(rng=rng), rng.normal(size=(4, 3, 32, 32)).astype(np.float32), rng.integers(0, 10, 4)
    twin = torch_models.load_weights(torch_models.ResNet20(), model)
    assert set(twin.state_dict()) == set(nn.named_parameters(model))
    theirs = torch_models.predictions(twin, x)
    assert np.abs(model(x) - theirs).max() <= 1e-5 * np.abs(theirs).max()
    loss = torch.nn.functional.cross_entropy(twin(torch.from_numpy(x)), torch.from_numpy(y))
    loss.backward()
    (value, gradients), taps = ad.collect_taps(ad.value_and_grad(lambda m: nn.cross_entropy(nn.training(m, np.array([0, 1]))(x), y)))(model)
    assert abs(float(value) - loss.item()) < 1e-5
    ours = nn.named_parameters(nn.trainable(model, gradients))
    for name, parameter in twin.named_parameters():
        assert np.abs(ours[name] - parameter.grad.numpy()).max() <= 5e-5 * np.abs(parameter.grad.numpy()).max(), name
    absorbed = nn.named_parameters(nn.absorb(model, taps))
    for name, buffer in twin.named_buffers():
        assert np.allclose(absorbed[name], buffer.numpy(), rtol=1e-4, atol=1e-5), name
