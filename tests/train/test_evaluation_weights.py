"""Rules that average: fit validates, and early stopping keeps, the weights to evaluate and not those that are trained."""

import numpy as np

from adjoint import nn, optim, train
from adjoint.tree import flatten


def test_fit_looks_at_the_average_of_a_schedule_free_run(rng):
    x = rng.standard_normal((40, 3))
    y = x @ rng.standard_normal((3, 1)) + rng.standard_normal((40, 1))
    model, stop = nn.Linear(3, 1, rng=rng, dtype=np.float64), train.EarlyStopping(patience=5, metric="validation_loss")
    done = train.fit(model, (x, y), optimizer=optim.schedule_free_adamw(0.05, beta1=0.2), loss=nn.squared_error, epochs=3, batch=8,
                     validation=(x, y), stop=stop, compiled=False)
    average = optim.evaluation_parameters(done.state, done.model)
    there, elsewhere = (float(nn.squared_error(m(x), y)) for m in (average, done.model))
    assert abs(there - elsewhere) > 1e-4 * there                            # the two are told apart
    np.testing.assert_allclose(done.history[-1]["validation_loss"], there, rtol=1e-12)
    assert stop.best_epoch == 3
    for kept, expected in zip(flatten(stop.model)[0], flatten(average)[0], strict=True):
        np.testing.assert_array_equal(kept, expected)
