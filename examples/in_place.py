"""Code that writes in place is differentiated as it stands: a filter, a histogram, a heat equation, and what is refused and why."""

import numpy as np

import adjoint as ad


def smoothed(x, strength):
    """An exponential filter, written into a copy of its argument, which belongs to the caller."""
    y = ad.numpy.array(x)               # x.copy() would do for derivatives in x; this holds those in the strength too
    for i in range(1, len(y)):
        y[i] += strength * y[i - 1]
    return y


x = np.array([1.0, 0.0, 0.0, 2.0])
print("filter:", smoothed(x, 0.5))
print("its Jacobian:", ad.jacobian(smoothed)(x, 0.5).tolist())
print("its derivative in the strength:", ad.jvp(lambda s: smoothed(x, s), (0.5,), (1.0,))[1])


def weighted_histogram(weights, bins):
    counts = ad.numpy.zeros(3)          # np.zeros would be a plain array, which cannot hold what is differentiated
    np.add.at(counts, bins, weights)    # equal bins add up; counts[bins] += weights would keep the last, as in NumPy
    return counts


weights, bins = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 2, 2, 1])
print("histogram:", weighted_histogram(weights, bins))
print("gradient of its square:", ad.grad(lambda w: (weighted_histogram(w, bins) ** 2).sum())(weights))


@ad.compile
def heat(u):
    """A bar whose ends stay at their temperature; views are written through, and the whole loop is one native call."""
    u = u.copy()
    for _ in range(20):
        inner, left, right = u[1:-1], u[:-2], u[2:]
        inner += 0.2 * (left - 2.0 * inner + right)
    return u


u = np.zeros(11)
u[0] = 1.0
print("heat:", heat(u).round(3))
print("how the middle depends on the two ends:", ad.grad(lambda u: heat(u)[5])(u)[[0, -1]].round(4))

# What NumPy would do and a derivative cannot is an error that says what to write instead.
try:
    ad.grad(lambda x: np.sum(np.multiply(x, 2.0, out=x)))(x)
except ad.errors.MutationError as error:
    print(f"refused: {error}".splitlines()[0])
