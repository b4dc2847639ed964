"""Under mpiexec: a split model and a pipeline of stages, compiled, against one process. Prints `rank r of n: right`."""

import numpy as np
from test_split import STEPS, pair, trained, trained_split
from test_stages import trained as trained_whole
from test_stages import trained_in_stages

from adjoint import nn, optim
from adjoint.distributed import world

RULE = optim.adam(0.01)


def main():
    c = world()
    expected, loss = trained(np.float64, RULE, STEPS)
    found, own = trained_split(c, np.float64, RULE, STEPS)
    assert list(found) == list(nn.named_parameters(pair(np.float64)))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10, atol=1e-10)
    assert abs(own - loss) <= 1e-10
    _, own = trained_in_stages(c, np.float64, STEPS, compiled=True)
    assert abs(own - trained_whole(np.float64, STEPS)[1]) <= 1e-10
    print(f"rank {c.rank} of {c.size}: right")


main()
