"""The small GPT: its size, what it may see, its first losses beside PyTorch's, and that it learns."""

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn
from adjoint.data import Text
from examples import gpt

TEXT = Text.split("the quick brown fox jumps over the lazy dog, " * 200)


@pytest.fixture
def small():
    return gpt.GPT(len(TEXT.vocabulary), rng=np.random.default_rng(0), layers=2, heads=2, width=16, context=8)


def test_size_names_and_first_weights():
    model = gpt.GPT(65, rng=np.random.default_rng(0))
    parameters = nn.named_parameters(model)
    assert sum(p.size for p in parameters.values()) == 65 * 128 + 64 * 128 + 4 * (12 * 128**2 + 2 * 128) + 128 == 804_096
    assert not [name for name in parameters if name.endswith("bias")]
    for name, p in parameters.items():
        if p.ndim == 2:
            assert abs(p.std() / (0.02 / np.sqrt(8) if "c_proj" in name else 0.02) - 1.0) < 0.03, name
    x, y = np.random.default_rng(1).integers(0, 65, (2, 2, 64))
    assert abs(float(nn.cross_entropy(ad.compile(lambda m, x: m(x))(model, x), y)) - np.log(65)) < 0.1


def test_the_future_is_not_seen(small):
    x = np.array([[1, 2, 3, 4, 5, 6, 7, 8]])
    changed = x.copy()
    changed[0, 5:] = 0
    np.testing.assert_array_equal(small(x)[0, :5], small(changed)[0, :5])
    assert not np.array_equal(small(x)[0, 5], small(changed)[0, 5])
    np.testing.assert_allclose(small(x[:, :3]), small(x)[:, :3], rtol=1e-5, atol=1e-6)


def test_compiled_gradients_are_the_eager_ones():
    model = gpt.GPT(5, rng=np.random.default_rng(0), layers=1, heads=2, width=8, context=6, dtype=np.float64)
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 5, (3, 6)), rng.integers(0, 5, (3, 6))
    gradient = ad.grad(lambda m: nn.cross_entropy(m(x), y))
    found, expected = nn.named_parameters(ad.compile(gradient)(model)), nn.named_parameters(gradient(model))
    for name, bar in expected.items():
        np.testing.assert_allclose(found[name], bar, rtol=1e-9, atol=1e-12, err_msg=name)


def test_the_first_losses_are_those_of_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    pytest.importorskip("safetensors", reason="safetensors is not installed: no way for the weights")
    from evidence.torch_models import GPT, load_weights
    symbols, losses = len(TEXT.vocabulary), []
    module = load_weights(GPT(symbols), gpt.GPT(symbols, rng=np.random.default_rng(0)))
    groups = [{"params": [p for p in module.parameters() if (p.dim() > 1) == many], "weight_decay": 0.1 * many} for many in (True, False)]
    rule = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    for rate, (x, y) in zip((1e-3, 1e-3, 5.5e-4), gpt.batches(TEXT.training, 0), strict=False):
        loss = torch.nn.functional.cross_entropy(module(torch.from_numpy(x)).flatten(0, 1), torch.from_numpy(y).flatten())
        rule.param_groups[0]["lr"] = rule.param_groups[1]["lr"] = rate
        rule.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        rule.step()
        losses.append(loss.item())
    found = gpt.train(TEXT, seed=0, steps=3)
    np.testing.assert_allclose([loss for _, loss in found["curve"]], losses, atol=1e-5)
    x, y = TEXT.windows(gpt.CONTEXT)
    with torch.no_grad():
        held_out = torch.nn.functional.cross_entropy(module(torch.from_numpy(x)).flatten(0, 1), torch.from_numpy(y).flatten())
    assert abs(found["held_out"] - held_out.item()) < 1e-4


def test_it_learns_and_writes(small):
    seen = []
    found = gpt.train(TEXT, steps=150, model=small, progress=lambda step, loss: seen.append((step, loss)))
    assert seen == found["curve"] and len(seen) == 150
    assert found["held_out"] < 0.8 * np.log(len(TEXT.vocabulary)) and seen[-1][1] < 0.8 * seen[0][1]
    assert len(gpt.write(found["model"], TEXT, "the ", 20)) == 24
