"""Train on the digits inside the package with a loop of your own: everything that train.fit does can be opened like this."""

import numpy as np

import adjoint as ad
from adjoint import nn, optim
from adjoint.data import Batches, load_digits

digits, epochs = load_digits(), 10
model = nn.Sequential(nn.Linear(64, 128, rng=np.random.default_rng(0)), nn.relu, nn.Linear(128, 10, rng=np.random.default_rng(1)))
batches = Batches(digits.train_x, digits.train_y, batch=64, seed=0, last="drop")
optimizer = optim.adamw(optim.schedules.cosine(2e-3, epochs * len(batches)))


@ad.compile(donate=(0, 1))
def step(model, state, x, y):
    loss, gradients = ad.value_and_grad(lambda model: nn.cross_entropy(model(x), y, label_smoothing=0.05))(model)
    updates, state = optimizer.update(gradients, state, model)
    return optim.apply_updates(model, updates), state, loss


state = optimizer.init(model)
while batches.epoch < epochs:
    losses = []
    for x, y in batches:
        model, state, loss = step(model, state, x, y)
        losses.append(float(loss))
    error = np.mean(np.argmax(model(digits.test_x), axis=1) != digits.test_y)
    print(f"epoch {batches.epoch:2d}  loss {np.mean(losses):.4f}  test error {100 * error:.2f} %")
