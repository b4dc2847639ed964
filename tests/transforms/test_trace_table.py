"""The table of a trace is the lectures': a logistic unit of Python numbers, line by line."""

import numpy as np

import adjoint as ad

LOGISTIC_UNIT = """
Forward primal trace   ↓       │ Reverse adjoint trace   ↑
───────────────────────────────┼────────────────────────────────────
v_{-2} = w               = 0.5 │ w̄      = v̄_{-2}             = 0.5
v_{-1} = x               = 2   │ x̄      = v̄_{-1}             = 0.125
v_0    = b               = −1  │ b̄      = v̄_0                = 0.25
───────────────────────────────┼────────────────────────────────────
v_1    = v_{-2} × v_{-1} = 1   │ v̄_{-1} = v̄_1 × v_{-2}       = 0.125
                               │ v̄_{-2} = v̄_1 × v_{-1}       = 0.5
v_2    = v_1 + v_0       = 0   │ v̄_0    = v̄_2                = 0.25
                               │ v̄_1    = v̄_2                = 0.25
v_3    = −v_2            = 0   │ v̄_2    = −v̄_3               = 0.25
v_4    = exp v_3         = 1   │ v̄_3    = v̄_4 × v_4          = −0.25
v_5    = 1 + v_4         = 2   │ v̄_4    = v̄_5                = −0.25
v_6    = 1 / v_5         = 0.5 │ v̄_5    = v̄_6 × (−v_6 / v_5) = −0.25
───────────────────────────────┼────────────────────────────────────
f      = v_6             = 0.5 │ v̄_6    = f̄                  = 1
"""


def test_a_logistic_unit_of_python_numbers():
    text = ad.trace(lambda w, x, b: 1 / (1 + np.exp(-(w * x + b))))(0.5, 2.0, -1.0).table()
    assert [line.rstrip() for line in text.splitlines()] == LOGISTIC_UNIT.strip().splitlines()
