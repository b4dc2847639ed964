"""The compile cache of the tests is a folder of the tests."""

import pytest

from adjoint import settings


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(settings.CACHE_DIR, str(tmp_path_factory.mktemp("cache") / "adjoint"))
        yield


@pytest.fixture(params=["native", "python"])
def route(request):
    """Whether the entry is the native one."""
    return request.param == "native"
