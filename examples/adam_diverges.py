"""Adam that goes to the worst point of a convex problem, and AMSGrad that finds the best (Reddi, Kale and Kumar, ICLR 2018, theorem 1).

The loss is f_t(x) = C x in every third step, else -x, on [-1, 1]; over three steps it is (C - 2) x, so -1 is best for C > 2. With beta1 = 0
and beta2 = 1/(1 + C^2) Adam divides the rare large gradient by its own size and the small ones by less: three steps lead up, not down.
"""

import numpy as np

import adjoint as ad
from adjoint import optim
from adjoint.optim import schedules

C = 3.0
BETA2 = 1.0 / (1.0 + C * C)


def rules(alpha: float = 0.5) -> dict:
    """Adam and AMSGrad on [-1, 1] with the rate alpha / sqrt t: as the theorem has them (no epsilon, no correction), and as PyTorch."""
    rate, interval = schedules.inverse_sqrt(alpha), optim.box(-1.0, 1.0)
    paper = optim.chain(optim.scale_by_rms(BETA2, 0.0), optim.scale_by_learning_rate(rate))         # Adam at beta1 = 0, uncorrected
    return {name: optim.project(rule, interval) for name, rule in {
        "Adam": optim.adam(rate, beta1=0.0, beta2=BETA2, epsilon=0.0),
        "Adam, no correction": paper,
        "AMSGrad": optim.amsgrad(rate, beta1=0.0, beta2=BETA2, epsilon=0.0),
        "AMSGrad, no correction": optim.amsgrad(rate, beta1=0.0, beta2=BETA2, epsilon=0.0, bias_correction=False)}.items()}


def course(rule: optim.Optimizer, steps: int = 6000, start: float = 0.0) -> np.ndarray:
    """x after every step, float64 [steps]."""
    def step(x, state, slope):
        gradient = ad.grad(lambda x: slope * x)(x)
        updates, state = rule.update(gradient, state, x)
        return optim.apply_updates(x, updates), state
    step, x, found = ad.compile(step), np.array(start), np.empty(steps)
    state = rule.init(x)
    for t in range(steps):
        x, state = step(x, state, np.float64(C if t % 3 == 0 else -1.0))
        found[t] = x
    return found


def main() -> None:
    for name, rule in rules().items():
        x = course(rule)
        print(f"{name}: x = {x[-1]:+.6f}, average of the last third {x[-2000:].mean():+.3f}")


if __name__ == "__main__":
    main()
