"""The target description: the host as it is, and the host with narrower vectors."""

import numpy as np
import pytest

from adjoint.compiler.target import host_target


def test_the_host_has_vectors():
    target = host_target()
    assert target.vector_bytes in (16, 32, 64)
    assert target.vector_registers in (16, 32)
    assert target.lanes(np.dtype("float32")) == 2 * target.lanes(np.dtype("float64"))
    assert target.machine().triple == target.triple


@pytest.mark.parametrize("width", [16, 32])
def test_narrower_vectors_name_no_wider_features(width):
    target = host_target(width)
    present = {name[1:] for name in target.features.split(",") if name.startswith("+")}
    assert target.vector_bytes <= width
    assert not any(name.startswith(("avx512", "avx10")) for name in present)
    assert width > 16 or not present & {"avx", "avx2", "fma"}


def test_a_target_is_a_key():
    assert host_target() == host_target()
    assert hash(host_target(16)) == hash(host_target(16))
