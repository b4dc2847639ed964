"""LeNet-5 and the network of Fashion-MNIST: sizes, names, a few steps of learning, and PyTorch's outputs and gradients."""

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn
from adjoint.data import Normalization
from examples.lenet import FashionNet, LeNet5, images, steps


def parameters(model):
    return sum(array.size for array in nn.named_parameters(model).values())


def test_sizes(rng):
    small, large = LeNet5(rng=rng), FashionNet(rng=rng)
    assert parameters(small) == 61_706 and parameters(large) == 1_199_882
    x = rng.normal(size=(2, 1, 28, 28)).astype(np.float32)
    assert small(x).shape == large(x).shape == (2, 10) and large(x).dtype == np.float32


def test_the_convolutions_by_plain_loops(rng):
    model = FashionNet(rng=rng)
    x = rng.normal(size=(1, 1, 28, 28)).astype(np.float32)
    w1, b1, w2, b2 = (a.astype(np.float64) for a in (model.conv1.weight, model.conv1.bias, model.conv2.weight, model.conv2.bias))
    first = np.stack([np.maximum(sum(x[0, 0, i:i + 26, j:j + 26] * w1[c, 0, i, j] for i in range(3) for j in range(3)) + b1[c], 0.0)
                      for c in range(32)])
    second = np.maximum(sum(np.einsum("oc,chw->ohw", w2[:, :, i, j], first[:, i:i + 24, j:j + 24]) for i in range(3) for j in range(3))
                        + b2[:, None, None], 0.0)
    pooled = second.reshape(64, 12, 2, 12, 2).max(axis=(2, 4)).reshape(-1)
    hidden = np.maximum(model.fc1.weight @ pooled + model.fc1.bias, 0.0)
    assert np.allclose(model(x)[0], model.fc2.weight @ hidden + model.fc2.bias, rtol=1e-5, atol=1e-5)


def test_dropout_acts_in_training_only(rng):
    x = rng.normal(size=(2, 1, 28, 28)).astype(np.float32)
    model, plain = FashionNet(rng=np.random.default_rng(1)), FashionNet(rng=np.random.default_rng(1), dropout=False)
    key = np.array([0, 1])
    assert np.array_equal(model(x), plain(x)) and np.array_equal(nn.training(plain, key)(x), plain(x))
    assert not np.allclose(nn.training(model, key)(x), model(x))


def test_a_few_steps_lower_the_loss():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 128)
    x = 0.1 * rng.normal(size=(128, 784)) + np.eye(10)[y].repeat(79, axis=1)[:, :784]
    scale = Normalization.fit(x, axis=None)
    found = [float(done.loss) for done in steps(LeNet5(rng=rng), images(x.astype(np.float32), scale), y, epochs=12, batch=64, rate=5e-3)]
    assert len(found) == 24 and abs(found[0] - np.log(10)) < 0.3 and found[-1] < 0.5 * found[0]


def test_pytorch_gives_the_same_outputs_and_gradients(rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from evidence import torch_models
    model, x, y = FashionNet(rng=rng), rng.normal(size=(3, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, 3)
    twin = torch_models.load_weights(torch_models.FashionNet(), model).eval()
    loss = torch.nn.functional.cross_entropy(twin(torch.from_numpy(x)), torch.from_numpy(y))
    loss.backward()
    value, gradients = ad.value_and_grad(lambda m: nn.cross_entropy(m(x), y))(model)
    assert abs(float(value) - loss.item()) < 1e-5
    for name, theirs in twin.named_parameters():
        ours = nn.named_parameters(gradients)[name]
        assert np.abs(ours - theirs.grad.numpy()).max() <= 1e-5 * np.abs(theirs.grad.numpy()).max(), name
